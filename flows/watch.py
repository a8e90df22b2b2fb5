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
    said: dict[str, list[str]] = {}
    while True:
        await _tried("arrivals", _arrivals, said)
        await _tried("messages", lambda: morning.tell(told, datetime.now().astimezone()), said)
        await asyncio.sleep(SECONDS)


async def _arrivals() -> list[str]:
    return await arrival.look(await arrival.servers())


async def _tried(what: str, look: Callable[[], Awaitable[list[str]]], said: dict[str, list[str]]) -> None:
    """Log what was done and what went wrong; what goes on being wrong is said once."""
    try:
        lines = await look()
    except Exception as error:  # Prefect is away: tried again
        lines = [f"{what}: {str(error) or type(error).__name__}; tried again every minute"]
    for line in lines:
        if line not in said.get(what, ()):
            logger.warning("%s", line)
    said[what] = lines


if __name__ == "__main__":
    # Prefect has given the root a handler, which tells no day and is silent where people have chosen so
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING, force=True)
    asyncio.run(watch(Path(sys.argv[1])))
