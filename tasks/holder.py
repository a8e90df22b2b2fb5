"""The holder: a small process that keeps one login's connection, and lends it to this account's other processes.

`tasks.login` starts it and carries the questions of the login between it and the terminal, over pipes: the connection
is born here, and secrets stand nowhere but in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import held
from tasks.held import HeldConnection
from tasks.ssh_config import Hop
from tasks.ssh_loop import in_thread
from tasks.ssh_running import ENDED, Running
from trackers.errors import BadInputError, SessionflowError

if TYPE_CHECKING:
    from tasks.ssh_transport import Transport

LOOK_SECONDS = 30.0  # after so long it sees that its socket's folder was removed
LAST_WORDS_SECONDS = 0.5  # for clients to be told that the connection is lost
PROBE_SECONDS = 2.0  # while a command does not read its input
FRAMES = {what: kind for kind, what in held.KINDS.items()}
Question = tuple[str, bool]  # what to show, and whether the answer may be seen


def ask(title: str, questions: list[Question]) -> list[str]:
    """Show something at the terminal that the login was started from, and return the answers to the questions.

    Raises:
        EOFError: the person has given up.
    """
    _say({"title": title, "questions": questions})
    answer = sys.stdin.readline() if questions else '{"answers": []}'
    if not answer:
        raise EOFError("the login was given up")
    answers: list[str] = json.loads(answer)["answers"]
    return answers


class Holder:
    """Keeps one connection until it ends, or until somebody tells it to."""

    def __init__(self, hop: Hop, connection: Any) -> None:
        self._connection = connection
        self._name = held.socket_name(hop)
        self._facts = {"place": f"{hop.user}@{hop.place}", "pid": os.getpid(), "since": time.time()}
        self._path: Path | None = None
        self._identity: tuple[int, int] | None = None
        self._told_to_end = asyncio.Event()
        self._servers: list[asyncio.Server] = []

    async def appear(self) -> None:
        """Listen, in the place of whoever listened before; from now on a signal ends it as it should."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._told_to_end.set)
        before = [await _living(folder / self._name) for folder in held.folders()]
        await self._listen()
        for old in before:
            if old:
                await old.quit()

    async def keep(self) -> None:
        """Serve until the connection ends or somebody says so; leave no socket behind."""
        ended = asyncio.create_task(self._connection.ended())
        told = asyncio.create_task(self._told_to_end.wait())
        try:
            while not ended.done() and not told.done():
                await asyncio.wait({ended, told}, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                await self._look()
        finally:
            self._disappear()
            await self._connection.close()
            await asyncio.sleep(LAST_WORDS_SECONDS)

    async def _listen(self) -> None:
        for path in held.places(self._name):
            fresh = path.with_suffix(f".{os.getpid()}")
            try:
                self._servers.append(await asyncio.start_unix_server(self._serve, fresh))
                fresh.replace(path)
            except OSError:  # a file system without sockets
                continue
            status = path.stat()
            self._path, self._identity = path, (status.st_dev, status.st_ino)
            return
        raise BadInputError("No folder takes the socket of a login. Nothing was kept.")

    async def _look(self) -> None:
        """See that clients still find the socket; another holder may stand there now, or nothing."""
        assert self._path  # noqa: S101 - it listens
        try:
            status = self._path.stat()
        except OSError:
            await self._listen()
            return
        if (status.st_dev, status.st_ino) != self._identity:
            self._told_to_end.set()

    def _disappear(self) -> None:
        for server in self._servers:
            server.close()
        with contextlib.suppress(OSError):
            if self._path and (status := self._path.stat()) and (status.st_dev, status.st_ino) == self._identity:
                self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk with one client: about itself, or about one command."""
        try:
            if not held.is_of_this_account(writer.get_extra_info("socket")):
                return
            while (frame := await held.read_frame(reader))[0]:
                if frame[0] == held.HELLO:
                    await held.write_frame(writer, held.HELLO, json.dumps(self._facts).encode())
                elif frame[0] == held.QUIT:
                    self._told_to_end.set()
                elif frame[0] == held.COMMAND:
                    await self._relay(frame[1].decode(), reader, writer)
                    return
        except OSError:
            pass  # the client has gone
        finally:
            writer.close()

    async def _relay(self, command: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Run one command for a client, who may go at any time."""
        started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
        tasks = {
            asyncio.create_task(self._bring_input(started, reader, writer)),
            asyncio.create_task(self._bring_output(command, started, writer)),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _bring_output(self, command: str, started: asyncio.Future[Running], writer: asyncio.StreamWriter) -> None:
        try:
            running = await self._connection.start(command)
        except SessionflowError as error:
            await held.write_frame(writer, held.LOST, str(error).encode())
            return
        try:
            started.set_result(running)
            await held.write_frame(writer, held.STARTED)
            kind = ""
            while kind != ENDED:
                kind, data = await running.read()
                await held.write_frame(writer, FRAMES[kind], data)
        except SessionflowError as error:
            await held.write_frame(writer, held.LOST, str(error).encode())
        finally:
            await running.close()

    async def _bring_input(
        self, started: asyncio.Future[Running], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass input on until the client has gone."""
        while (frame := await held.read_frame(reader))[0]:
            running = await started
            with contextlib.suppress(BrokenPipeError, SessionflowError):  # its end is told with its output
                if frame[0] == held.END_OF_INPUT:
                    await running.end_input()
                elif not await self._pass(frame[1], running, writer):
                    return

    async def _pass(self, data: bytes, running: Running, writer: asyncio.StreamWriter) -> bool:
        """Write to a command; return whether the client is still there. Nothing is read meanwhile that could tell."""
        writing = asyncio.create_task(running.write(data))
        try:
            while not (await asyncio.wait({writing}, timeout=PROBE_SECONDS))[0]:
                writer.write(held.FRAME.pack(held.SAID, 0))
                if writer.is_closing():
                    return False
            await writing
        finally:
            writing.cancel()
        return True


async def _living(path: Path) -> HeldConnection | None:
    with contextlib.suppress(OSError, ValueError, BadInputError):
        return await HeldConnection.at(path)
    return None


async def hold(hops: list[Hop]) -> None:
    """Log in on the way that leads to the last of `hops`, tell the terminal how it went, and keep the connection."""
    from tasks.ssh_authentication import log_in_with_person
    from tasks.ssh_dial import dial
    from tasks.ssh_direct import DirectConnection

    def log_in(transport: Transport, hop: Hop) -> None:
        log_in_with_person(transport, hop, ask)

    held.places(held.socket_name(hops[-1]))  # said before anything is asked
    transport = await in_thread(lambda: dial(hops, log_in))
    holder = Holder(hops[-1], DirectConnection(transport, hops[-1].place))
    await holder.appear()
    _say({"held": True})
    _let_go_of_the_terminal()
    await holder.keep()


def main() -> int:
    """Start a holder; the way comes over standard input, resolved already."""
    import resource

    if os.fork():  # before there are threads; whoever started this need not wait for the holder
        os._exit(0)
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what was typed must not land in a core file
    sys.modules["invoke"] = None  # type: ignore[assignment] # it is for reading `Match exec`: 6 MB
    try:
        asyncio.run(hold([Hop.from_json(hop) for hop in json.loads(sys.stdin.readline())]))
    except (SessionflowError, EOFError) as error:
        with contextlib.suppress(OSError):
            _say({"error": type(error).__name__, "message": str(error)})
        return 1
    return 0


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _let_go_of_the_terminal() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


if __name__ == "__main__":
    sys.exit(main())
