"""The client of the server side: requests and answers over one channel, shared by everything in this process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from importlib import metadata
from typing import Any
from weakref import WeakKeyDictionary

from tasks.backoff import pause
from tasks.interruption import Interruption
from tasks.servers import Server
from tasks.transport import Channel, message_of, open_channel
from trackers import errors
from trackers.errors import LoginNeededError, UnreachableError
from trackers.protocol import PROTOCOL

FIRST_SECONDS = 60.0  # for a server that has not answered in this process yet: nothing depends on it so far
GREETING_SECONDS = 60.0  # for the first answer: a login node under load may take long to start a program
HURRIED_SECONDS = 30.0  # for one that is out of reach while the run is being ended
LOGIN_SECONDS = 5.0  # between looks at whether somebody has logged in
Listener = Callable[[dict[str, Any]], None]
logger = logging.getLogger("sessionflow.server")


class Client:
    """Talks to one server's side, and starts it again whenever it has disappeared.

    Every request may be sent twice when the channel broke before its answer came, so each call of the server side
    tolerates being repeated.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._site = server.site()
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._listeners: dict[str, Listener] = {}
        self._answered = False
        self._said = ""
        self.users = 0

    async def ask(self, call: str, **arguments: Any) -> Any:
        """Return the server side's answer to one request.

        A server that is out of reach is tried again, with growing pauses: for a minute where it has never answered in
        this process, else for ever, since a lost connection fails no job. One that wants a person to log in is waited
        for, however long that takes.

        Raises:
            SessionflowError: the error that the server side reports, of the class that it names.
            UnreachableError: see above.
            HostKeyError, AuthenticationError: trying again would not help.
        """
        return await self.ask_within(None, call, **arguments)

    async def ask_within(self, patience: float | None, call: str, **arguments: Any) -> Any:
        """Ask as `ask` does, but give up after `patience` seconds.

        Raises:
            UnreachableError, LoginNeededError: patience has ended.
        """
        began = time.monotonic()
        for attempt in itertools.count(1):
            try:
                answer = await self._exchange(call, arguments)
                break
            except (ConnectionError, LoginNeededError) as error:
                wait = LOGIN_SECONDS if isinstance(error, LoginNeededError) else pause(attempt)
                if time.monotonic() + wait > self._until(error, began, patience):
                    raise
                self._say(f"{self._waits_for(error)}: {error}")
                await asyncio.sleep(wait)
        if self._said:
            self._say("")
        if "error" in answer:
            raise error_of(answer["error"])
        return answer["result"]

    async def reach(self) -> None:
        """Open the channel, so that the first request finds it open; that request meets what goes wrong here."""
        with contextlib.suppress(Exception):
            await self._open()

    def listen(self, key: str, listener: Listener) -> None:
        """Pass events with `key` to `listener`, and to all of them what is waited for and that the channel broke.

        These are `{"event": "lost"}` and `{"event": "waiting", "message": …}`, with an empty message at the end.
        """
        self._listeners[key] = listener
        if self._said:
            listener({"event": "waiting", "message": self._said})

    def unlisten(self, key: str) -> None:
        """Pass no more events with `key`."""
        self._listeners.pop(key, None)

    async def close(self) -> None:
        """End the conversation."""
        channel, self._channel = self._channel, None
        if self._reader is not None:
            self._reader.cancel()
        if channel is not None:
            await channel.close()

    def _until(self, error: Exception, began: float, patience: float | None) -> float:
        """Return when to give up, by the monotonic clock."""
        until = math.inf
        if patience is not None:
            until = began + patience
        elif not self._answered and not isinstance(error, LoginNeededError):
            until = began + FIRST_SECONDS
        interruption = Interruption.current()
        if interruption is not None and interruption.reason:  # somebody wants the run to end
            until = min(until, max(began, interruption.since) + HURRIED_SECONDS)
        return until

    def _waits_for(self, error: Exception) -> str:
        return f"waiting for {'login' if isinstance(error, LoginNeededError) else 'the server'}"

    def _say(self, words: str) -> None:
        """Tell people what is waited for, once each time that it changes; runs tell it in their own logs."""
        only_here = {"send_to_api": False}
        if words and words.partition(":")[0] != self._said.partition(":")[0]:
            logger.warning("%s: %s", self.server.label, words, extra=only_here)
        elif not words:
            logger.warning("%s answers again", self.server.label, extra=only_here)
        self._said = words
        for listener in list(self._listeners.values()):
            listener({"event": "waiting", "message": words})

    async def _exchange(self, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        channel = await self._open()
        return await self._exchange_on(channel, call, arguments)

    async def _exchange_on(self, channel: Channel, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        request = {"id": number, "protocol": PROTOCOL, "call": call, "arguments": {"site": self._site, **arguments}}
        try:
            await channel.send(json.dumps(request).encode() + b"\n")
            return await future
        finally:
            self._waiting.pop(number, None)

    async def _open(self) -> Channel:
        async with self._opening:
            if self._channel is None:
                self._channel = await open_channel(self.server)
                self._reader = None
            channel = self._channel
            if self._reader is None or self._reader.done():  # the end of a loop cancels it, before flows clean up
                self._reader = asyncio.create_task(self._read(channel), name="answers of the server side")
                if not self._answered:
                    await self._greet(channel)
            return channel

    async def _greet(self, channel: Channel) -> None:
        """Ask who answers; another version is said, another protocol refused."""
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                answer = await self._exchange_on(channel, "hello", {})
        except TimeoutError:
            await self.close()
            raise UnreachableError(
                f"the server side was started and did not say who it is within {GREETING_SECONDS:g} s"
            ) from None
        if "error" in answer:
            raise error_of(answer["error"])
        if old := _other_versions(answer["result"], metadata.version("sessionflow")):
            logger.warning(
                "%s has %s, and this is sessionflow %s. Bring it up to date with: sessionflow server install %s",
                *(self.server.label, old, metadata.version("sessionflow"), self.server.name or "NAME"),
            )
        self._answered = True

    async def _read(self, channel: Channel) -> None:
        while line := await _line(channel):
            message = message_of(line)
            if message is None:
                continue
            if listener := self._listeners.get(str(message.get("key"))):
                listener(message)
            elif (future := self._waiting.get(message.get("id") or 0)) and not future.done():
                future.set_result(message)
        if self._channel is channel:
            self._channel = None
        await channel.close()
        reason = channel.why or "the server side has gone"
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(UnreachableError(reason))
        for listener in list(self._listeners.values()):
            listener({"event": "lost"})


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Client]] = WeakKeyDictionary()


@contextlib.asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Client]:
    """Give the client of a server: one per process and server, closed when its last user has left."""
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    key = server.model_dump_json()
    client = clients.setdefault(key, Client(server))
    client.users += 1
    try:
        yield client
    finally:
        client.users -= 1
        if client.users == 0:
            clients.pop(key, None)
            await client.close()


@contextlib.asynccontextmanager
async def reaching(server: Server | None) -> AsyncIterator[None]:
    """Connect to a server while the block begins with something else: Prefect takes as long to start a flow run."""
    if server is None:
        yield
        return
    async with connected(server) as client:
        reach = asyncio.create_task(client.reach(), name="reach the server side")
        try:
            yield
        finally:
            reach.cancel()
            await asyncio.wait([reach])


def _other_versions(hello: dict[str, Any], here: str) -> str:
    """Return what on a server has another version than `here`, in words."""
    found = {"its server side": hello["version"], **(hello.get("environments") or {})}
    return ", ".join(f"{name} {version}" for name, version in found.items() if version != here)


async def _line(channel: Channel) -> bytes:
    with contextlib.suppress(ConnectionError):
        return await channel.receive()
    return b""


def error_of(data: dict[str, Any]) -> Exception:
    """Make the error that the server side named; one that this side does not know is a plain SessionflowError."""
    kind = getattr(errors, str(data["type"]), errors.SessionflowError)
    if not (isinstance(kind, type) and issubclass(kind, errors.SessionflowError)):
        kind = errors.SessionflowError
    error = kind.__new__(kind)
    Exception.__init__(error, data["message"])  # the message is complete; no class adds to it here
    error.remedy = str(data.get("remedy") or "")
    error.exit_code = int(data["exit_code"])
    return error
