"""Which Python a server has for us, and which wheels run there."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from tasks.servers import Server
from tasks.this_computer import Runs
from tasks.transport import message_of
from trackers.errors import SessionflowError

OLDEST = (3, 11)
USUAL = ("python3.13", "python3.12", "python3.11", "python3")
PROBE_SECONDS = 60.0
_FIRST_MANYLINUX = 5  # glibc 2.5, of manylinux1
_OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
# for any Python that may be called python3
_PROBE = """\
import glob, importlib.util, json, os, platform, struct, subprocess, sys
libc = ""
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (ValueError, OSError, AttributeError):
    pass
for loader in [] if libc else glob.glob("/lib/ld-musl-*.so.1"):
    said = subprocess.Popen([loader], stderr=subprocess.PIPE).communicate()[1].decode()
    libc = "musl " + said.split("Version")[-1].split()[0]
print(json.dumps({
    "path": sys.argv[1], "version": list(sys.version_info[:3]), "implementation": platform.python_implementation(),
    "system": platform.system(), "machine": platform.machine(), "bits": struct.calcsize("P") * 8, "libc": libc,
    "venv": importlib.util.find_spec("venv") is not None,
}))
"""
# on standard input, for the account's own shell may be one that takes no newlines in a word, as csh
_SEARCH = f"""\
for name in "$@"; do
  path=$(command -v "$name") || continue
  "$path" -I -c {shlex.quote(_PROBE)} "$path" </dev/null 2>/dev/null || echo '{{"path": "'"$name"'"}}'
done
exit 0
"""


@dataclass(frozen=True)
class Python:
    """An interpreter on a server.

    Attributes:
        version: empty where it does not start.
        libc: `glibc 2.36` or `musl 1.2.4`.
    """

    path: str
    version: tuple[int, ...] = ()
    implementation: str = ""
    system: str = ""
    machine: str = ""
    bits: int = 0
    libc: str = ""
    venv: bool = False

    @property
    def problem(self) -> str:
        """Why an environment cannot be made with it; empty where it can."""
        if not self.version:
            return "does not start"
        if self.version[:2] < OLDEST:
            return f"is {self.shown}"
        if (self.implementation, self.system, self.bits) != ("CPython", "Linux", 64) or not self.libc:
            return f"is {self.implementation} of {self.bits} bits on {self.system or 'an unknown system'}"
        return "" if self.venv else "has no module venv (Debian: python3-venv)"

    @property
    def shown(self) -> str:
        """Its version."""
        return ".".join(map(str, self.version))

    @property
    def short(self) -> str:
        """Its version as wheels name it: `3.11`."""
        return ".".join(map(str, self.version[:2]))

    def tags(self) -> list[str]:
        """Return the options of `pip download` that choose the wheels which run there."""
        interpreter = f"cp{self.short.replace('.', '')}"
        platforms = [word for name in self.platforms() for word in ("--platform", name)]
        abis = [word for abi in (interpreter, "abi3", "none") for word in ("--abi", abi)]
        return ["--python-version", self.short, "--implementation", "cp", *abis, *platforms]

    def platforms(self) -> list[str]:
        """Return the platform tags of the wheels which run there, the newest first (PEP 600, PEP 656)."""
        kind, _, text = self.libc.partition(" ")
        major, minor = (int(part) for part in (*text.split("."), "0")[:2])
        if kind == "musl":
            return [f"musllinux_{major}_{number}_{self.machine}" for number in range(minor, -1, -1)]
        found = []
        for number in range(minor, _FIRST_MANYLINUX - 1, -1):
            found.append(f"manylinux_2_{number}_{self.machine}")
            if number in _OLD_NAMES:
                found.append(f"{_OLD_NAMES[number]}_{self.machine}")
        return [*found, f"linux_{self.machine}"]


async def pythons(connection: Runs, server: Server, given: str = "") -> list[Python]:
    """Return the interpreters that a server has, in the order in which we would take them.

    Args:
        connection: to the server.
        server: its description; what has to be activated for the server side is activated here as well.
        given: look at this one only.

    Raises:
        SessionflowError: what has to be activated failed.
    """
    described = [environment.python for environment in server.environments.values() if environment.python]
    candidates = [given] if given else [*USUAL, *dict.fromkeys(described)]
    words = server.activated("sh", "-s", *candidates)
    answer = await connection.run(words, input=_SEARCH.encode(), timeout=PROBE_SECONDS)
    if answer.exit_code:  # not of the search, which ends with 0 whatever it finds
        said = answer.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {answer.exit_code}"]
        raise SessionflowError(
            f"{server.label}: what is activated before the server side (`environments: core`, or the account's shell) "
            f"failed: {said[0]}. Nothing was changed there."
        )
    return parse_pythons(answer.stdout.decode(errors="replace"))


def parse_pythons(text: str) -> list[Python]:
    """Read what the search printed, a JSON object a line; other lines are a login shell's."""
    found = []
    for line in text.splitlines():
        data = message_of(line.encode())
        if data is not None and "path" in data:
            found.append(Python(**{**data, "version": tuple(data.get("version", ()))}))
    return found
