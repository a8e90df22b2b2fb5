"""Transports: how lines reach the server side and come back, as a process of this computer or over SSH."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import sys
from typing import Any, Protocol

from tasks.servers import Server
from trackers.protocol import LINE_BYTES


class Channel(Protocol):
    """One conversation with a server side that runs; several requests may be under way on it."""

    @property
    def why(self) -> str:
        """Once it is over, why nobody is there any more, for people."""

    async def send(self, line: bytes) -> None:
        """Send one line.

        Raises:
            ConnectionError: nobody is there any more.
        """

    async def receive(self) -> bytes:
        """Return the next line; an empty one when the conversation is over."""

    async def close(self) -> None:
        """End the conversation; what the server side started goes on."""


class LocalChannel:
    """The server side as a process of this computer, out of reach of the terminal's Ctrl-C."""

    why = "the server side on this computer has gone"

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def open(cls) -> LocalChannel:
        """Start a server side."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "trackers", "serve"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
            cwd="/",
            start_new_session=True,
        )
        return cls(process)

    async def send(self, line: bytes) -> None:
        """Send one line; see `Channel`."""
        assert self._process.stdin is not None  # noqa: S101 - it was opened as a pipe
        self._process.stdin.write(line)
        await self._process.stdin.drain()

    async def receive(self) -> bytes:
        """Return the next line; see `Channel`."""
        assert self._process.stdout is not None  # noqa: S101 - it was opened as a pipe
        return await self._process.stdout.readline()

    async def close(self) -> None:
        """End the process by closing its input."""
        assert self._process.stdin is not None  # noqa: S101 - it was opened as a pipe
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def message_of(line: bytes) -> dict[str, Any] | None:
    """Return the message in a line; None where there is none, as in a login shell's greeting.

    What such a greeting wrote without ending its line (a terminal's title, often) stands before the first message.
    """
    _, begin, rest = line.partition(b'{"')
    try:
        message = json.loads(begin + rest)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


async def open_channel(server: Server) -> Channel:
    """Start a server's side and return the conversation with it.

    Raises:
        UnreachableError: the server could not be reached, or its side did not start.
        LoginNeededError, AuthenticationError, HostKeyError: see `tasks.ssh.connect`.
    """
    if not server.host:
        return await LocalChannel.open()
    await asyncio.to_thread(importlib.import_module, "tasks.ssh")  # paramiko takes its time; others go on meanwhile
    from tasks.ssh import connect

    connection = await connect(server.address())
    return await connection.open(server.server_side())
