"""Talking to a server over SSH: one connection per process and server, shared by every thread and event loop in it.

paramiko blocks and has threads of its own. Here all connections of a process are used from one event loop in a
daemon thread, which the coroutines of other loops ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tasks import held
from tasks.ssh_channel import RemoteChannel
from tasks.ssh_config import SshAddress, route
from tasks.ssh_loop import in_thread, on_ssh_loop
from tasks.ssh_running import ERRORS, OUTPUT, Link, Running
from tasks.transport import Channel
from trackers.errors import (
    AuthenticationError,
    CommandTimeoutError,
    LoginNeededError,
    UnreachableError,
)

__all__ = ["Completed", "Connection", "SshAddress", "connect"]

CONNECT_SECONDS = 90.0  # for the whole way, all jump hosts included
OPEN_SECONDS = 60.0  # until a long-lived command has a channel
Input = bytes | Iterable[bytes]  # what a command reads: whole, or in pieces that are made as it reads
UNUSED_SECONDS = 10.0  # that a connection without users is kept: the next flow often comes at once


@dataclass(frozen=True)
class Completed:
    """How a command on a server ended; `exit_code` is -1 where a signal ended it."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Connection(Protocol):
    """A shared connection to a server."""

    async def run(self, command: Sequence[str], *, input: Input = b"", timeout: float = 60) -> Completed:  # noqa: A002, ASYNC109
        """Run a command to its end.

        Args:
            command: its words; they reach the program as they are.
            input: what it reads from its standard input, whole or in pieces that are made as it reads.
            timeout: seconds, from now to its end; what takes longer is sent TERM.

        Raises:
            CommandTimeoutError: it took longer.
            UnreachableError: the connection was lost; the command may or may not have run.
        """

    async def open(self, command: Sequence[str]) -> Channel:
        """Start a command to talk with, line by line.

        Raises:
            UnreachableError: the connection was lost.
        """

    async def close(self) -> None:
        """Use the connection no more; it ends when nobody else uses it."""


async def connect(address: SshAddress) -> Connection:
    """Give the process's connection to a server; where there is none that lives, make one.

    Raises:
        UnreachableError: the server could not be reached; worth trying again for as long as it takes.
        LoginNeededError: a person has to log in first; then it works by itself.
        HostKeyError, AuthenticationError, BadInputError: trying again will not help.
    """
    return SharedConnection(address, await on_ssh_loop(_pool.get(address), undo=_pool.give_back))


def as_shell_command(command: Sequence[str]) -> str:
    """Return the text that a server's shell takes for exactly these words."""
    return shlex.join(command)


class _Shared:
    """A connection and who uses it; used on the SSH loop only."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.users = 0


class _Pool:
    """The process's connections; used on the SSH loop only."""

    def __init__(self) -> None:
        self._shared: dict[SshAddress, asyncio.Task[_Shared]] = {}
        self._accepted: set[SshAddress] = set()

    async def get(self, address: SshAddress) -> _Shared:
        """Return a living connection with one user more; all who ask at once wait for the same."""
        task = self._shared.get(address)
        if task is None or (task.done() and not _lives(task)):
            task = self._shared[address] = asyncio.create_task(self._make(address))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # where nobody waits any more
        shared = await asyncio.shield(task)
        shared.users += 1
        return shared

    async def give_back(self, shared: _Shared) -> None:
        """Count one user less; a connection that stays without any is closed."""
        shared.users -= 1
        if shared.users == 0:
            asyncio.get_running_loop().call_later(UNUSED_SECONDS, self._close_unused, shared)

    def _close_unused(self, shared: _Shared) -> None:
        if shared.users == 0:
            self._shared = {key: task for key, task in self._shared.items() if not _is(task, shared)}
            self._closing = asyncio.create_task(shared.link.close())

    async def _make(self, address: SshAddress) -> _Shared:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                shared = _Shared(await (self._held(address) if address.interactive else self._direct(address)))
        except TimeoutError as error:
            raise UnreachableError(f"{address.label} could not be reached within {CONNECT_SECONDS:g} s.") from error
        except LoginNeededError:
            raise
        except AuthenticationError as error:
            if address in self._accepted:
                raise LoginNeededError(
                    f"{address.label} let this account in before and does not now; somebody may have to log in there, "
                    f"or to renew a certificate. {error}"
                ) from error
            raise
        self._accepted.add(address)
        return shared

    async def _held(self, address: SshAddress) -> Link:
        link = await held.find(address)
        if link is None:
            raise LoginNeededError(
                f"{address.label} wants somebody to log in, and no login is held on this computer. Run: sessionflow "
                f"server login {shlex.quote(address.label)}; what waits continues then by itself."
            )
        return link

    async def _direct(self, address: SshAddress) -> Link:
        from tasks.ssh_dial import dial
        from tasks.ssh_direct import DirectConnection

        hops = await in_thread(lambda: route(address))
        transport = await in_thread(lambda: dial(hops), undo=lambda late: late.close())
        return DirectConnection(transport, hops[-1].place)


def _lives(task: asyncio.Task[_Shared]) -> bool:
    return not task.cancelled() and task.exception() is None and task.result().link.alive


def _is(task: asyncio.Task[_Shared], shared: _Shared) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None and task.result() is shared


_pool = _Pool()


class SharedConnection:
    """One user's hold on a connection; see `Connection`."""

    def __init__(self, address: SshAddress, shared: _Shared) -> None:
        self._address = address
        self._shared = shared
        self._closed = False

    async def run(self, command: Sequence[str], *, input: Input = b"", timeout: float = 60) -> Completed:  # noqa: A002, ASYNC109
        """Run a command to its end; see `Connection`."""
        return await on_ssh_loop(self._run(command, input, timeout))

    async def open(self, command: Sequence[str]) -> RemoteChannel:
        """Start a command to talk with; see `Connection`."""
        running = await on_ssh_loop(self._start(command), undo=lambda late: late.close())
        return RemoteChannel(as_shell_command(command), running)

    async def close(self) -> None:
        """Use the connection no more; see `Connection`."""
        if not self._closed:
            self._closed = True
            await on_ssh_loop(_pool.give_back(self._shared))

    async def _start(self, command: Sequence[str]) -> Running:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                return await self._shared.link.start(as_shell_command(command))
        except TimeoutError as error:
            raise UnreachableError(
                f"{self._address.label} did not start `{as_shell_command(command)}` within {OPEN_SECONDS:g} s."
            ) from error

    async def _run(self, command: Sequence[str], data: Input, seconds: float) -> Completed:
        said: dict[str, bytearray] = {OUTPUT: bytearray(), ERRORS: bytearray()}
        running: Running | None = None
        try:
            async with asyncio.timeout(seconds):
                running = await self._shared.link.start(as_shell_command(command))
                return await _completed(running, data, said)
        except TimeoutError as error:
            last = _last_lines(said[ERRORS]) or _last_lines(said[OUTPUT])
            raise CommandTimeoutError(
                f"`{as_shell_command(command)}` on {self._address.label} did not end within {seconds:g} s"
                f"{f'; its last words: {last}' if last else ''}. "
                + ("It was sent TERM; what it did so far stays." if running else "It was not started.")
            ) from error
        finally:
            if running:
                await running.close()


async def _completed(running: Running, data: Input, said: dict[str, bytearray]) -> Completed:
    feeding = asyncio.create_task(_feed(running, data))
    try:
        while (piece := await running.read())[0] in said:
            said[piece[0]] += piece[1]
        return Completed(int(piece[1]), bytes(said[OUTPUT]), bytes(said[ERRORS]))
    finally:
        feeding.cancel()


async def _feed(running: Running, data: Input) -> None:
    with contextlib.suppress(ConnectionError):  # a command need not read its input; a loss is seen by the reader
        for piece in [data] if isinstance(data, bytes) else data:
            await running.write(piece)
        await running.end_input()


def _last_lines(text: bytearray, count: int = 3) -> str:
    return "\n".join(text.decode(errors="replace").strip().splitlines()[-count:])
