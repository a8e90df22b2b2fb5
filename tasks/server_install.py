"""Put the server side on a server: environments made of wheels that travel along, switched when they are complete."""

from __future__ import annotations

import hashlib
import itertools
import json
import pkgutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.server_ask import ask_once
from tasks.server_python import Python, pythons
from tasks.servers import Server
from tasks.ssh import connect
from tasks.this_computer import Runs, ThisComputer
from tasks.transport import message_of
from tasks.wheels import environments, fetched, own_wheel, requirements
from trackers.errors import BadInputError, SessionflowError
from trackers.site import INSTALLED, LIGHT

CORE = "core"
REPORT = "report"
DEFAULT = ("manifest", "behavior")
LOOK_SECONDS = 60.0
UNPACK_SECONDS = 4 * 3600.0  # for gigabytes over a slow line, into a slow home folder
PIECE_BYTES = 1 << 18
_START = "import sys; exec(sys.stdin.buffer.read(int(sys.argv.pop(1))))"  # a program before its data
Say = Callable[[str], None]
State = dict[str, Any]  # what `trackers.unpack` answers


@dataclass(frozen=True)
class Plan:
    """One environment on the server.

    Attributes:
        folder: its name there, which tells the versions that are in it.
        names: what it is called; equal environments share one folder.
        wanted: the requirements.
    """

    folder: str
    names: tuple[str, ...]
    wanted: tuple[str, ...]


async def install(
    server: Server,
    names: Sequence[str] | None = None,
    *,
    wheels: Path | None = None,
    python: str = "",
    again: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Bring a server's side to this version; return what it then says of itself.

    What runs there goes on under the version that it began with. Whatever goes wrong, the old version stays in service.

    Args:
        server: where.
        names: the environments beside the server side's own; None: the usual ones, and those that are there.
        wheels: a folder that has the wheels, where this computer cannot fetch them.
        python: the interpreter there to build upon; empty: the newest that is found.
        again: build what is there already anew.
        say: is told what happens.

    Raises:
        BadInputError: the description does not let us install.
        SessionflowError: the server has no Python for it, the wheels cannot be had, or the server could not write.
    """
    ours = _ours(server, _with_report(names if names is not None else DEFAULT if server.host else ()), say)
    connection: Runs = await connect(server.address()) if server.host else ThisComputer()
    try:
        base = await _base(connection, server, python if server.host else python or sys.executable)
        say(f"{server.label}: Python {base.shown} ({base.path}), {base.machine}, {base.libc}")
        name, content = own_wheel()
        there = await _run(connection, server, base, {})
        if names is None:  # what is there is brought to this version as well
            ours += [each for each in environments() if each in there["links"] and each not in (CORE, *ours)]
        wanted = plan(ours, base, hashlib.sha256(content).hexdigest(), name.split("-")[1], core=bool(server.host))
        plans = [_placed(each, there, again=again) for each in wanted]
        for each in plans:
            if each.folder in there["complete"]:
                continue
            with tempfile.TemporaryDirectory() as place, fetched(list(each.wanted), base, wheels) as found:
                ours_here = Path(place) / name
                ours_here.write_bytes(content)
                files = [ours_here, *found]
                size = sum(file.stat().st_size for file in files) / 1e6
                say(f"{' and '.join(each.names)}: {len(files)} wheels, {size:.1f} MB")
                await _send(connection, server, base, each.folder, files)
        changed = await _switch(connection, server, base, plans, there)
        said = f"In service now: {', '.join(changed)}" if changed else "Nothing to do: this very version is in service"
        say(f"{said}.")
    finally:
        await connection.close()
    return dict(await ask_once(server, "hello"))


def plan(names: Sequence[str], base: Python, own: str, version: str, *, core: bool = True) -> list[Plan]:
    """Return which environments are wanted; those with the same content are one."""
    plans: dict[str, Plan] = {}
    for name in (CORE, *names) if core else names:
        wanted = requirements(name)
        facts = [own, wanted, base.path, base.short, base.machine, base.libc.split(" ")[0]]
        folder = f"{version}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]}"
        before = plans.get(folder, Plan(folder, (), tuple(wanted)))
        plans[folder] = Plan(folder, tuple(dict.fromkeys([*before.names, name])), before.wanted)
    return list(plans.values())


def _with_report(names: Sequence[str]) -> list[str]:
    """Return the names, with `report` where there is something to show by one."""
    return [*names, REPORT] if any(name not in LIGHT for name in names) else list(names)


def _ours(server: Server, names: Sequence[str], say: Say) -> list[str]:
    """Return the environments that are ours to install."""
    core = server.environments.get(CORE)
    expected = f"{INSTALLED}/{CORE}/bin/python"
    if core and (core.python or core.activate) and not core.python.endswith(expected):
        raise BadInputError(
            f"The description of {server.label} names an environment of its own for the server side "
            f"({core.python or core.activate}), which is not ours to change. Nothing was done. Install sessionflow "
            f"there by hand, or take `environments: {CORE}` out of the description, or let it say `python: "
            f"HOME/{expected}`, with HOME written out, beside what has to be activated for it."
        )
    ours = []
    for name in dict.fromkeys(names):
        requirements(name)  # refuses a name that is none, before anything is done
        described = server.environments.get(name)
        if not server.host and name in LIGHT:
            say(f"{name}: this computer uses the environment that `sessionflow` runs in; left alone")
        elif described and (described.python or described.activate):
            say(f"{name}: the description names {described.python or described.activate}; left alone")
        elif name != CORE:
            ours.append(name)
    return ours


async def _base(connection: Runs, server: Server, given: str) -> Python:
    """Return the interpreter to build upon."""
    found = await pythons(connection, server, given)
    if usable := next((each for each in found if not each.problem), None):
        return usable
    looked = "; ".join(f"{each.path} {each.problem}" for each in found) or f"there is no {given or 'python3'}"
    raise SessionflowError(
        f"{server.label} has no Python 3.11 or newer to build upon: {looked}. Nothing was changed there. Name one by "
        "--python PATH (where `module load` or conda brings it, `which python3` there says its path), or get one "
        "without root, e.g. by `uv python install 3.12` or micromamba."
    )


async def _send(connection: Runs, server: Server, base: Python, folder: str, wheels: list[Path]) -> None:
    """Send wheels and have an environment made of them."""
    digests = {}
    for wheel in wheels:
        with wheel.open("rb") as file:
            digests[wheel.name] = hashlib.file_digest(file, "sha256").hexdigest()
    await _run(connection, server, base, {"unpack": folder, "wheels": digests}, _tar(wheels))


def _tar(files: list[Path]) -> Iterator[bytes]:
    """Give a tar of files piece by piece: hundreds of megabytes are never in memory at once."""
    for path in files:
        entry = tarfile.TarInfo(path.name)
        entry.size = path.stat().st_size
        yield entry.tobuf()
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
        yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


async def _switch(connection: Runs, server: Server, base: Python, plans: list[Plan], there: State) -> list[str]:
    """Put what is complete in service, all of it at once; return the names that mean something else now."""
    links = {name: each.folder for each in plans for name in each.names}
    changed = {name: folder for name, folder in links.items() if there["links"].get(name) != folder}
    if changed:
        await _run(connection, server, base, {"switch": changed})
    return list(changed)


def _placed(each: Plan, there: State, *, again: bool) -> Plan:
    """Return a plan with the folder that is complete there already, or with a new one.

    What is in service is never written to: an environment that is made `again` gets a number behind its name.
    """
    stem = f"{each.folder}."
    numbers = [
        int(f.removeprefix(stem)) for f in there["complete"] if f.startswith(stem) and f[len(stem) :].isdecimal()
    ]
    latest = f"{stem}{max(numbers)}" if numbers else each.folder
    if not again:
        return replace(each, folder=latest)
    return replace(each, folder=f"{stem}{max(numbers, default=0) + 1}") if latest in there["complete"] else each


async def _run(
    connection: Runs, server: Server, base: Python, plan: dict[str, Any], data: Iterable[bytes] = ()
) -> dict[str, Any]:
    """Carry out one plan of `trackers.unpack` on the server."""
    text = pkgutil.get_data("trackers", "unpack.py") or b""  # not imported: it is for POSIX systems
    arguments = (str(len(text)), json.dumps({"root": INSTALLED, **plan}))
    words = server.activated(base.path, "-I", "-c", _START, *arguments)
    seconds = UNPACK_SECONDS if data else LOOK_SECONDS
    done = await connection.run(words, input=itertools.chain([text], data), timeout=seconds)
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    answer = message_of(lines[-1].encode()) if lines else None
    if answer is None:
        problem = done.stderr.decode(errors="replace").strip()[-500:] or f"exit code {done.exit_code}"
    else:
        problem = str(answer.get("error") or "")
    if problem:
        raise SessionflowError(
            f"{server.label} could not be brought to this version: {problem}. What was in service there is unchanged. "
            "Run the same command again when that is mended."
        )
    return answer or {}
