"""What `sessionflow up` looks at once a minute: sessions that arrive, failures to tell. It leaves no runs behind.

`python -m flows.watch FILE`; FILE remembers what people have been told.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

from flows import arrival, morning
from tasks.mail import Mail  # noqa: F401 - so that blocks of its type can be loaded

SECONDS = 60.0  # between two looks
logger = logging.getLogger("sessionflow")


async def watch(told: Path) -> None:
    """Look again and again, until ended; nothing that goes wrong ends it."""
    said: dict[str, str] = {}
    while True:
        await _tried("arrivals", _arrivals, said)
        await _tried("messages", lambda: morning.tell(told, datetime.now().astimezone()), said)
        await asyncio.sleep(SECONDS)


async def _arrivals() -> list[str]:
    return await arrival.look(await arrival.servers())


async def _tried(what: str, look: Callable[[], Awaitable[list[str]]], said: dict[str, str]) -> None:
    """Log what was done; what went wrong as well, once."""
    try:
        for line in await look():
            logger.warning("%s", line)
        said.pop(what, None)
    except Exception as error:  # Prefect is away, a message was not taken: tried again
        words = str(error) or type(error).__name__
        if said.get(what) != words:
            logger.warning("%s: %s; tried again every minute", what, words)
        said[what] = words


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    asyncio.run(watch(Path(sys.argv[1])))
