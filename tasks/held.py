"""Connections that a holder process keeps for this account: where its socket is, and what is said over it.

Frames go both ways: one byte that says what it is, four with the length, then the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import platform
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.ssh_config import Hop, SshAddress, route
from tasks.ssh_loop import in_thread
from tasks.ssh_running import ENDED, ERRORS, OUTPUT, Running
from trackers.errors import BadInputError, UnreachableError

# From a client: start a command; its input; the input's end; who are you; end yourself.
COMMAND, INPUT, END_OF_INPUT, HELLO, QUIT = b"C", b"I", b"E", b"H", b"Q"
# From the holder: it is started; output, errors, exit code; the connection is lost. A HELLO is answered by a HELLO.
STARTED, SAID, COMPLAINED, EXITED, LOST = b"S", b"O", b"R", b"X", b"L"
KINDS = {SAID: OUTPUT, COMPLAINED: ERRORS, EXITED: ENDED}
FRAME = struct.Struct(">cI")
LONGEST_FRAME = 16 * 1024 * 1024
LONGEST_PATH = 100  # bytes; the system takes little more for a socket
ANSWER_SECONDS = 10.0


def folders() -> list[Path]:
    """Return where holders' sockets may be, best first; they need not be there.

    A worker that some service started may lack XDG_RUNTIME_DIR, and the system removes that folder when the account's
    last login has ended: so every folder is looked into.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    runtime = [Path(os.environ.get("XDG_RUNTIME_DIR") or "/"), Path(f"/run/user/{os.getuid()}")]
    known = [folder for folder in runtime if folder != Path("/") and os.access(folder, os.W_OK)]
    return [folder / "sessionflow" for folder in dict.fromkeys([*known, cache])]


def socket_name(last: Hop) -> str:
    """Return the file name of a login's socket: of this computer, because homes are shared, and of account and host."""
    text = "\n".join([platform.node(), last.user, last.host, str(last.port)])
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.sock"


def places(name: str) -> list[Path]:
    """Return where a holder may listen, best first; the folders are made.

    Raises:
        BadInputError: nowhere.
    """
    usable, problems = [], []
    for folder in folders():
        if len(os.fsencode(folder / name)) > LONGEST_PATH:
            problems.append(f"{folder} is too long for the path of a socket")
            continue
        try:
            usable.append(private_folder(folder) / name)
        except (OSError, BadInputError) as error:
            problems.append(str(error))
    if not usable:
        raise BadInputError(f"There is no place for the socket of a login: {'; '.join(problems)}. Nothing was done.")
    return usable


def private_folder(folder: Path) -> Path:
    """Make a folder that only this account can enter.

    Raises:
        BadInputError: there is one that others made or can enter.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise BadInputError(
            f"{folder} is not a folder of this account alone (mode 0700); no login is made or used there"
        )
    return folder


def is_of_this_account(peer: socket.socket) -> bool:
    """Whether the process at a socket's other end runs under this account; true where the system does not say."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    _pid, user, _group = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.getuid())


async def read_frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return the next frame's kind and bytes; of kind `b""` when there are no more."""
    try:
        kind, length = FRAME.unpack(await reader.readexactly(FRAME.size))
        if length > LONGEST_FRAME:
            return b"", b""
        return kind, await reader.readexactly(length)
    except (asyncio.IncompleteReadError, OSError):
        return b"", b""


async def write_frame(writer: asyncio.StreamWriter, kind: bytes, data: bytes = b"") -> None:
    """Send one frame, no faster than the other side reads.

    Raises:
        OSError: nobody is there any more.
    """
    writer.write(FRAME.pack(kind, len(data)) + data)
    await writer.drain()


async def find(address: SshAddress) -> HeldConnection | None:
    """Return the connection that a living holder keeps; files that holders left behind count for nothing."""
    if sys.platform == "win32":
        return None
    name = socket_name((await in_thread(lambda: route(address)))[-1])
    for folder in folders():
        with contextlib.suppress(OSError, ValueError, BadInputError):
            return await HeldConnection.at(folder / name)
    return None


class HeldConnection:
    """A holder's connection; see `Link`.

    Attributes:
        facts: what the holder says of itself: place, pid, since.
    """

    def __init__(
        self, path: Path, facts: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.facts = facts
        self._path = path
        self._reader = reader  # of a conversation that lasts as long as the holder
        self._writer = writer

    @classmethod
    async def at(cls, path: Path) -> HeldConnection:
        """Talk to the holder that listens at `path`.

        Raises:
            OSError, ValueError: there is none.
        """
        if not path.parent.is_dir():
            raise FileNotFoundError(path.parent)
        private_folder(path.parent)
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            await write_frame(writer, HELLO)
            kind, data = await read_frame(reader)
        if kind != HELLO:
            writer.close()
            raise ConnectionRefusedError(path)
        return cls(path, json.loads(data), reader, writer)

    @property
    def alive(self) -> bool:
        """Whether the holder is there."""
        return not self._reader.at_eof() and not self._writer.is_closing()

    async def start(self, command: str) -> Running:
        """Start a command; see `Link`."""
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await asyncio.open_unix_connection(self._path)
            await write_frame(writer, COMMAND, command.encode())
            kind, data = await read_frame(reader)
        except OSError as error:
            raise self._lost() from error
        except asyncio.CancelledError:
            if writer:
                writer.close()
            raise
        if kind != STARTED:
            writer.close()
            raise UnreachableError(data.decode()) if kind == LOST else self._lost()
        return HeldRunning(reader, writer, self._lost)

    async def quit(self) -> None:
        """End the holder and its connection; return when it has gone."""
        with contextlib.suppress(OSError):
            await write_frame(self._writer, QUIT)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await read_frame(self._reader)
        await self.close()

    async def close(self) -> None:
        """Use the holder no more."""
        self._writer.close()

    def _lost(self) -> UnreachableError:
        return UnreachableError(f"The login on {self.facts.get('place')} that was held has ended.")


class HeldRunning:
    """A command over a holder; see `Running`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: Any) -> None:
        self._reader = reader
        self._writer = writer
        self._lost = lost
        self._over = False

    async def read(self) -> tuple[str, bytes]:
        """Return the next piece; see `Running`."""
        kind, data = await read_frame(self._reader)
        if kind == LOST:
            raise UnreachableError(data.decode())
        if kind not in KINDS:
            raise self._lost()
        self._over = kind == EXITED
        return KINDS[kind], data

    async def write(self, data: bytes) -> None:
        """Write to the command's input; see `Running`."""
        for piece in _pieces(data, 256 * 1024):
            await self._send(INPUT, piece)

    async def end_input(self) -> None:
        """Let the command see the end of its input; see `Running`."""
        with contextlib.suppress(BrokenPipeError):
            await self._send(END_OF_INPUT)

    async def close(self) -> None:
        """Let go of the command; see `Running`."""
        self._writer.close()

    async def _send(self, kind: bytes, data: bytes = b"") -> None:
        if self._over:
            raise BrokenPipeError("the command has ended")
        try:
            await write_frame(self._writer, kind, data)
        except OSError as error:
            raise BrokenPipeError("the command has ended") from error


def _pieces(data: bytes, length: int) -> Iterator[bytes]:
    return (data[start : start + length] for start in range(0, len(data), length))
