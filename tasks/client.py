"""The client of the server side: requests and answers over one channel, shared by everything in this process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from weakref import WeakKeyDictionary

from tasks.transport import Channel, LocalChannel
from trackers import errors
from trackers.protocol import PROTOCOL

ATTEMPTS = 5  # at one request, while the server side keeps disappearing
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 30.0
Listener = Callable[[dict[str, Any]], None]


class Client:
    """Talks to one server's side, and starts it again whenever it has disappeared.

    Every request may be sent twice when the channel broke before its answer came, so each call of the server side
    tolerates being repeated.
    """

    def __init__(self, site: dict[str, Any]) -> None:
        self._site = site
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._listeners: dict[str, Listener] = {}
        self.users = 0

    async def ask(self, call: str, **arguments: Any) -> Any:
        """Return the server side's answer to one request.

        Raises:
            SessionflowError: the error that the server side reports, of the class that it names.
            ConnectionError: it could not be reached.
        """
        for attempt in itertools.count(1):
            try:
                answer = await self._exchange(call, arguments)
                break
            except ConnectionError:
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(min(SHORTEST_PAUSE_SECONDS * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS))
        if "error" in answer:
            raise _error(answer["error"])
        return answer["result"]

    def listen(self, key: str, listener: Listener) -> None:
        """Pass events with `key` to `listener`, and `{"event": "lost"}` when the channel broke."""
        self._listeners[key] = listener

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

    async def _exchange(self, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        channel = await self._open()
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
                self._channel = await LocalChannel.open()
                self._reader = None
            if self._reader is None or self._reader.done():  # the end of a loop cancels it, before flows clean up
                self._reader = asyncio.create_task(self._read(self._channel), name="answers of the server side")
            return self._channel

    async def _read(self, channel: Channel) -> None:
        while line := await _line(channel):
            message = json.loads(line)
            if listener := self._listeners.get(str(message.get("key"))):
                listener(message)
            elif (future := self._waiting.get(message.get("id"))) and not future.done():
                future.set_result(message)
        if self._channel is channel:
            self._channel = None
        await channel.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the server side has gone"))
        for listener in list(self._listeners.values()):
            listener({"event": "lost"})


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Client]] = WeakKeyDictionary()


@contextlib.asynccontextmanager
async def connected(site: dict[str, Any]) -> AsyncIterator[Client]:
    """Give the client of a server: one per process and server, closed when its last user has left.

    Args:
        site: what every request says of the server, `ComputeServer.site()`.
    """
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    key = json.dumps(site, sort_keys=True)
    client = clients.setdefault(key, Client(site))
    client.users += 1
    try:
        yield client
    finally:
        client.users -= 1
        if client.users == 0:
            clients.pop(key, None)
            await client.close()


async def _line(channel: Channel) -> bytes:
    with contextlib.suppress(ConnectionError):
        return await channel.receive()
    return b""


def _error(data: dict[str, Any]) -> Exception:
    """Make the error that the server side named; one that this side does not know is a plain SessionflowError."""
    kind = getattr(errors, str(data["type"]), errors.SessionflowError)
    if not (isinstance(kind, type) and issubclass(kind, errors.SessionflowError)):
        kind = errors.SessionflowError
    error = kind.__new__(kind)
    Exception.__init__(error, data["message"])  # the message is complete; no class adds to it here
    error.exit_code = int(data["exit_code"])
    return error
