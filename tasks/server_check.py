"""The whole way to a server, step by step: what is so, and what to do about what is not as it should be."""

from __future__ import annotations

import asyncio
import shlex
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks.server_ask import ask_once
from tasks.server_python import pythons
from tasks.servers import Server
from tasks.ssh_config import Hop, route
from trackers.check import INSTALL, Finding
from trackers.errors import (
    BadInputError,
    HostKeyError,
    LoginNeededError,
    SessionflowError,
    UnreachableError,
)

NAME_SECONDS, TCP_SECONDS = 20.0, 15.0
CHECK_SECONDS = 240.0  # longer than the longest of the server side's own steps
CLOCK_SECONDS = 5.0
BEHIND_SERVER_SIDE = ("environments", "volumes", "scheduler", "clock")
STEPS = ("name", "connection", "host key", "login", "Python", "server side", *BEHIND_SERVER_SIDE)
LOCAL_INSTALL = "pip install 'sessionflow[manifest,behavior]'"


async def check(server: Server, wishes: Sequence[dict[str, Any]] = ()) -> AsyncIterator[Finding]:
    """Walk the way to a server and give each step's finding as soon as it is there.

    A step that fails skips those that depend on it. Without a host, the way begins on this computer.

    Args:
        server: where.
        wishes: what jobs will ask for; see `trackers.check.Wish`.
    """
    if server.host:
        async for finding in _reach(server):
            yield _named(server, finding)
            if finding.result == "failure":
                for step in STEPS[STEPS.index(finding.step) + 1 :]:
                    yield _skipped(step, finding.step)
                return
        yield await _python(server)
    try:
        asked, began = time.time(), time.monotonic()
        hello = await ask_once(server, "hello")
        took = time.monotonic() - began
    except SessionflowError as error:
        install = isinstance(error, UnreachableError) or "protocol" in str(error)
        remedy = _mending(server) if install else ""  # else the error says it itself
        yield _named(server, Finding("server side", "failure", str(error), remedy))
        for step in BEHIND_SERVER_SIDE:
            yield _skipped(step, "server side")
        return
    for finding in (*versions(hello, server), *([clock(hello, asked, took)] if server.host else [])):
        yield _named(server, finding)
    try:
        found = await ask_once(server, "check", CHECK_SECONDS, wishes=list(wishes))
    except SessionflowError as error:
        old = "is no call" in str(error)
        words = "this version of the server side cannot check itself" if old else str(error)
        remedy = f"Bring it up to date: {INSTALL}" if old else "Try again; if it stays so, look at the server by hand."
        yield _named(server, Finding("environments", "failure", words, remedy))
        for step in BEHIND_SERVER_SIDE[1:3]:
            yield _skipped(step, "environments")
        return
    for each in found:
        yield _named(server, Finding(**each))


def versions(hello: dict[str, Any], server: Server) -> list[Finding]:
    """Compare the versions there with the one here."""
    here = metadata.version("sessionflow")
    what = f"sessionflow {hello['version']} under Python {hello['python']} ({hello['executable']} on {hello['host']})"
    if hello["version"] != here:
        words = f"{what}, and this is {here}"
        found = [Finding("server side", "warning", words, f"Bring it up to date: {INSTALL}")]
    else:
        found = [Finding("server side", "ok", what)]
    for name, version in sorted((hello.get("environments") or {}).items()):
        if version != here:
            words = f"it has sessionflow {version}, and this is {here}"
            found.append(Finding(f"version of {name}", "warning", words, f"Bring it up to date: {INSTALL}"))
    return found


def clock(hello: dict[str, Any], asked: float, took: float) -> Finding:
    """Compare a server's clock with this computer's.

    Args:
        hello: what it answered, with its `time`.
        asked: when it was asked, this computer's clock.
        took: seconds until the answer was here; its clock was read somewhere in between.
    """
    if "time" not in hello:
        return Finding("clock", "skipped", "this version of the server side does not say its time")
    early, late = hello["time"] - asked - took, hello["time"] - asked
    difference = 0.0 if early <= 0 <= late else min(early, late, key=abs)
    if abs(difference) <= CLOCK_SECONDS:
        return Finding("clock", "ok", f"within {max(abs(difference), took):.1f} s of this computer's")
    words = f"{abs(difference):.0f} s {'ahead of' if difference > 0 else 'behind'} this computer's"
    return Finding(
        "clock", "warning", words, "Times in tables will look odd: let both keep time by NTP (`timedatectl`)."
    )


async def _reach(server: Server) -> AsyncIterator[Finding]:
    """Resolve, connect, check the host key, log in."""
    try:
        hops = route(server.address())
    except BadInputError as error:
        yield Finding("name", "failure", str(error))
        return
    for step in (_name, _connection):
        found = await asyncio.to_thread(step, hops[0])
        yield found
        if found.result == "failure":
            return
    async for found in _logged_in(server, hops):
        yield found


def _name(hop: Hop) -> Finding:
    if hop.proxy_command:
        return Finding("name", "ok", f"{hop.host} is looked up by ProxyCommand")
    try:
        found = socket.getaddrinfo(hop.host, hop.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        words = f"{hop.host} is not known: {getattr(error, 'strerror', None) or error}"
        return Finding("name", "failure", words, "Correct `host` in the description, or connect to the site's VPN.")
    addresses = ", ".join(dict.fromkeys(str(each[4][0]) for each in found))
    return Finding("name", "ok", f"{hop.host} is {addresses}" if addresses != hop.host else f"{hop.host} is an address")


def _connection(hop: Hop) -> Finding:
    if hop.proxy_command:
        return Finding("connection", "ok", f"made by ProxyCommand: {hop.proxy_command}")
    try:
        began = time.monotonic()
        with socket.create_connection((hop.host, hop.port), TCP_SECONDS):
            took = (time.monotonic() - began) * 1000
    except OSError as error:
        why = f"no answer within {TCP_SECONDS:g} s" if isinstance(error, TimeoutError) else error.strerror or error
        remedy = (
            "Correct `host` and `port`; or a firewall is between, and the site wants a VPN or a jump host (ProxyJump)."
        )
        return Finding("connection", "failure", f"{hop.place}: {why}", remedy)
    return Finding("connection", "ok", f"{hop.place} answers in {took:.0f} ms")


async def _logged_in(server: Server, hops: Sequence[Hop]) -> AsyncIterator[Finding]:
    from tasks.ssh import connect

    hop = hops[-1]
    known = Finding("host key", "ok", f"known for {hop.place}")
    try:
        connection = await connect(server.address())
    except HostKeyError as error:
        yield Finding("host key", "failure", str(error))
    except UnreachableError as error:
        yield Finding("host key", "failure", str(error), "Something that is no SSH server may listen at that port.")
    except LoginNeededError as error:
        yield known
        yield Finding("login", "failure", str(error), "Log in once: sessionflow server login {name}")
    except SessionflowError as error:
        # a jump host may be the one that refuses
        refused = next((each for each in hops if f"{each.user}@{each.place} " in str(error)), hop)
        yield replace(known, words=f"known for {refused.place}")
        yield Finding("login", "failure", str(error), _login_remedy(server, refused, str(error)))
    else:
        yield known
        yield Finding("login", "ok", f"as {hop.user}")
        await connection.close()


def _login_remedy(server: Server, hop: Hop, said: str) -> str:
    if server.key_file and not Path(server.key_file).expanduser().exists():
        return "Correct `key_file` in the description, or make that key with ssh-keygen and put its .pub there."
    if "interactive_login" not in said:  # it takes no password, which ssh-copy-id would need
        key = f"{server.key_file}.pub" if server.key_file else "the public half of a key of this computer"
        return (
            "Correct `user` and `key_file` in the description, or have the server's administrator, or whoever can log "
            f"in as {hop.user}, add {key} to ~{hop.user}/.ssh/authorized_keys there."
        )
    key = f" -i {shlex.quote(f'{server.key_file}.pub')}" if server.key_file else ""
    return (
        f"Put a key of this computer there: ssh-copy-id{key} -p {hop.port} {hop.user}@{hop.host}; for one-time "
        "passwords set `interactive_login: true`, then: sessionflow server login {name}"
    )


async def _python(server: Server) -> Finding:
    """Look for an interpreter that `server install` could build upon."""
    from tasks.ssh import connect

    try:
        connection = await connect(server.address())
        try:
            found = await pythons(connection, server)
        finally:
            await connection.close()
    except SessionflowError as error:
        return Finding("Python", "warning", f"could not be looked for: {error}")
    if usable := next((each for each in found if not each.problem), None):
        return Finding("Python", "ok", f"{usable.shown} ({usable.path}), {usable.machine}, {usable.libc}")
    looked = "; ".join(f"{each.path} {each.problem}" for each in found) or "no python3 there"
    return Finding(
        *("Python", "warning", f"none from 3.11 on: {looked}"),
        "`server install` needs one; name it by --python PATH, or get one without root: uv python install 3.12",
    )


def _mending(server: Server) -> str:
    core = server.environments.get("core")
    if not server.host:
        return f"Try it by hand: {sys.executable} -P -m trackers hello"
    if core and (core.python or core.activate):
        return "The description names its environment (`environments: core`): mend that, or take it out and install."
    return f"Install it: {INSTALL}"


def _skipped(step: str, after: str) -> Finding:
    return Finding(step, "skipped", f"not looked at, because of: {after}")


def _named(server: Server, finding: Finding) -> Finding:
    """Fill in how people call the server; this computer installs for itself."""
    remedy = finding.remedy
    if not server.host:
        remedy = remedy.replace(f"{INSTALL} --with", "sessionflow server install local --with")
        remedy = remedy.replace(INSTALL, LOCAL_INSTALL)
    return replace(finding, remedy=remedy.replace("{name}", server.label))
