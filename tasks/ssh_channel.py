"""A conversation, line by line, with a command that runs on a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from concurrent.futures import Future

from tasks.ssh_loop import done, on_ssh_loop, ssh_loop
from tasks.ssh_running import ERRORS, OUTPUT, Running
from trackers.errors import SessionflowError, UnreachableError
from trackers.protocol import LINE_BYTES

GOODBYE_SECONDS = 5.0  # for a command to end after its input has
LAST_LINES, LONGEST_LAST_LINE = 20, 4096


class RemoteChannel:
    """A conversation with a command on a server; see `tasks.transport.Channel`.

    Attributes:
        ended: how the command ended, in words; empty while it runs.
    """

    def __init__(self, command: str, running: Running) -> None:
        self.ended = ""
        self._command = command
        self._running = running
        self._buffer = bytearray()
        self._searched = 0
        self._errors: deque[bytes] = deque([b""], maxlen=LAST_LINES)
        self._reading = asyncio.Lock()
        self._next: Future[bytes] | None = None  # outlives a receive that is cancelled, so that no line is lost

    @property
    def why(self) -> str:
        """Why nobody is there any more, with the last lines that the command wrote to its standard error."""
        last = b"\n".join(self._errors).decode(errors="replace").strip()
        return f"`{self._command}` is not there any more: {self.ended}{f'; its last words: {last}' if last else ''}"

    async def send(self, line: bytes) -> None:
        """Send one line; see `Channel`."""
        await on_ssh_loop(self._send(line))

    async def receive(self) -> bytes:
        """Return the next line; see `Channel`."""
        if self._next is None:
            self._next = asyncio.run_coroutine_threadsafe(self._receive(), ssh_loop())
        await done(self._next)
        line, self._next = self._next.result(), None
        return line

    async def close(self) -> None:
        """End the conversation; see `Channel`."""
        await on_ssh_loop(self._close())

    async def _send(self, line: bytes) -> None:
        if self.ended:
            raise UnreachableError(self.why)
        try:
            await self._running.write(line)
        except BrokenPipeError as error:
            while await self._read():  # to the end, for its last words
                pass
            raise UnreachableError(self.why) from error

    async def _receive(self) -> bytes:
        """Return the next line; only what is asked for is read, so that the server's side waits for a slow reader."""
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            if not await self._read():
                return b""
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        self._searched = 0
        return line

    async def _read(self) -> bool:
        """Read one piece; return whether there may be more."""
        async with self._reading:
            if self.ended:
                return False
            try:
                kind, data = await self._running.read()
            except SessionflowError as error:
                self.ended = self.ended or str(error)
                return False
            if kind == OUTPUT:
                self._buffer += data
                if len(self._buffer) > 2 * LINE_BYTES:
                    self.ended = f"it sent a line of more than {LINE_BYTES} bytes"
            elif kind == ERRORS:
                first, *others = data.split(b"\n")
                self._errors[-1] = (self._errors[-1] + first)[-LONGEST_LAST_LINE:]
                self._errors.extend(others)
            else:
                self.ended = f"it ended with exit code {data.decode()}"
            return not self.ended

    async def _close(self) -> None:
        with contextlib.suppress(SessionflowError, TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._running.end_input()
                while await self._read():
                    pass
        self.ended = self.ended or "it was closed"
        await self._running.close()
