"""A connection of this process, and the commands that run over it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import paramiko

from tasks.ssh_loop import in_thread, tell
from tasks.ssh_running import ENDED, ERRORS, OUTPUT, Places, Running
from tasks.ssh_transport import DEAD, Transport
from trackers.errors import UnreachableError

SETTLE_SECONDS = 1.0
PIECE_BYTES = 32 * 1024


class DirectConnection:
    """One SSH connection, used from one event loop."""

    def __init__(self, transport: Transport, place: str) -> None:
        self._transport = transport
        self._place = place
        self._places = Places()

    @property
    def alive(self) -> bool:
        """Whether commands can be started."""
        return self._transport.is_active()

    async def ended(self) -> str:
        """Wait until the connection has ended; return why."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        self._transport.listeners[over] = lambda: tell(loop, over.set)
        if self.alive:
            await over.wait()
        return str(self._lost())

    async def start(self, command: str) -> Running:
        """Start a command, when there is a place for one more.

        Raises:
            UnreachableError: the connection is lost.
        """
        returned = self._places.returned
        await self._places.take()
        while True:
            try:
                channel = await self._opened(command)
                break
            except _RefusedError:
                if self._places.returned > returned:  # sshd frees a place a moment after its CLOSE: asked again at once
                    returned = self._places.returned
                else:
                    await self._places.refused()
            except BaseException:
                self._places.give_back()
                raise
        return DirectRunning(channel, self._transport, self._lost, self._places.give_back)

    async def close(self) -> None:
        """End the connection and every command's channel."""
        await in_thread(lambda: self._transport.end("it was closed by this program"))

    async def _opened(self, command: str) -> paramiko.Channel:
        opened: list[paramiko.Channel] = []
        try:
            return await in_thread(lambda: self._open(command, opened), undo=paramiko.Channel.close)
        except asyncio.CancelledError:
            # The server may never say whether it starts the command. What the thread is sending must come before CLOSE.
            for channel in opened:
                asyncio.get_running_loop().call_later(SETTLE_SECONDS, channel.close)
            raise

    def _open(self, command: str, opened: list[paramiko.Channel]) -> paramiko.Channel:
        try:
            channel = self._transport.open_session()
            opened.append(channel)
        except DEAD as error:
            if self.alive:
                raise _RefusedError from error
            raise self._lost() from error
        try:
            channel.exec_command(command)
        except DEAD as error:
            channel.close()
            if self.alive:
                raise UnreachableError(f"{self._place} did not start a command: {error}.") from error
            raise self._lost() from error
        return channel

    def _lost(self) -> UnreachableError:
        transport = self._transport
        why = transport.ended_because or transport.last_word or "the other side ended it"
        return UnreachableError(f"The connection to {self._place} was lost: {why}.")


class DirectRunning:
    """A command on a channel of a `DirectConnection`; see `Running`.

    Everything that is sent on the channel after the command's start is sent by the event loop's thread, so that
    nothing follows a CLOSE.
    """

    def __init__(
        self,
        channel: paramiko.Channel,
        transport: Transport,
        lost: Callable[[], UnreachableError],
        on_close: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._transport = transport
        self._lost = lost
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._closed = False
        channel.settimeout(0.0)
        transport.listeners[channel.get_id()] = self._wake

    async def read(self) -> tuple[str, bytes]:
        """Return the next piece; see `Running`."""
        channel = self._channel
        while True:
            self._news.clear()
            over, active = self._over, self._transport.is_active()  # asked first: what came before is still read
            if channel.recv_ready():
                return OUTPUT, channel.recv(PIECE_BYTES * 8)
            if channel.recv_stderr_ready():
                return ERRORS, channel.recv_stderr(PIECE_BYTES * 8)
            if over:
                return ENDED, b"%d" % channel.exit_status
            if not active or channel.closed:
                raise self._lost()
            await self._news.wait()

    async def write(self, data: bytes) -> None:
        """Write to the command's input; see `Running`."""
        position = 0
        while position < len(data):
            self._news.clear()
            if not self._transport.is_active():
                raise self._lost()
            if self._over or self._channel.closed:
                raise BrokenPipeError("the command has ended")
            if self._channel.send_ready():
                position += self._send(data[position : position + PIECE_BYTES])
                await asyncio.sleep(0)
            else:
                await self._news.wait()

    async def end_input(self) -> None:
        """Send an EOF; see `Running`."""
        with contextlib.suppress(*DEAD):
            self._channel.shutdown_write()

    async def close(self) -> None:
        """Close the channel; see `Running`."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(*DEAD):
            if not self._over and self._transport.is_active():
                self._transport.signal(self._channel, "TERM")
            self._channel.close()
        self._transport.listeners.pop(self._channel.get_id(), None)
        self._news.set()
        self._on_close()

    @property
    def _over(self) -> bool:
        return bool(getattr(self._channel, "over", False))

    def _send(self, piece: bytes) -> int:
        try:
            return self._channel.send(piece)
        except DEAD as error:
            raise self._lost() from error

    def _wake(self) -> None:
        tell(self._loop, self._news.set)


class _RefusedError(Exception):
    """The server had no place for one more command."""
