"""A way to a port of this computer that is as slow as one to a distant server: every byte arrives later."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future

HOST = "127.0.0.1"


@contextlib.contextmanager
def slow_line(port: int, seconds: float) -> Iterator[int]:
    """Give a port that leads to `port`, each direction of which takes so long; it is as wide as the machine allows."""
    open_now: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # at the end, when some connections are still open
            await asyncio.sleep(2 * seconds)  # the handshake of TCP goes there and back as well
            there, to_there = await asyncio.open_connection(HOST, port)
            await asyncio.gather(_carry(reader, to_there, seconds), _carry(there, writer, seconds))

    async def serve() -> None:
        closing = asyncio.Event()
        server = await asyncio.start_server(joined, HOST, 0)
        open_now.set_result((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), closing))
        await closing.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="slow line", daemon=True)
    thread.start()
    own_port, loop, closing = open_now.result(timeout=10)
    try:
        yield own_port
    finally:
        loop.call_soon_threadsafe(closing.set)
        thread.join()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            loop.call_later(seconds, writer.write, data)
    loop.call_later(seconds, writer.close)
