"""One question to a server's side, without patience: what is wrong is to be said, and not waited for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tasks.servers import Server
from tasks.transport import Channel, message_of, open_channel
from trackers.errors import CommandTimeoutError, SessionflowError, UnreachableError
from trackers.protocol import PROTOCOL

START_SECONDS = 60.0


async def ask_once(server: Server, call: str, seconds: float = START_SECONDS, **arguments: Any) -> Any:
    """Start a server's side, ask it one thing, and return the answer.

    Raises:
        UnreachableError: it does not start; with its last words.
        CommandTimeoutError: it did not answer in time.
        SessionflowError: what it answers is an error.
    """
    channel = await open_channel(server)
    try:
        async with asyncio.timeout(seconds):
            answer = await _exchange(channel, server, call, arguments)
    except TimeoutError:
        raise CommandTimeoutError(f"{server.label} did not answer `{call}` within {seconds:g} s.") from None
    finally:
        await channel.close()
    if "error" in answer:
        raise SessionflowError(str(answer["error"]["message"]))
    return answer["result"]


async def _exchange(channel: Channel, server: Server, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
    request = {"id": 1, "protocol": PROTOCOL, "call": call, "arguments": {"site": server.site(), **arguments}}
    await channel.send(json.dumps(request).encode() + b"\n")
    while line := await channel.receive():
        message = message_of(line)
        if message is not None and message.get("id") == 1:
            return message
    raise UnreachableError(channel.why or "the server side has gone")
