"""Runs within a run say that they live, all of a process by one task, so that Prefect can tell when it has died.

Prefect itself starts a thread for each run, which wakes once a second: with the runs of a thousand sessions under way,
those threads are most of what a process does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from prefect.context import SettingsContext, get_settings_context
from prefect.events import emit_event
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, Settings

HEARTBEAT = "prefect.flow-run.heartbeat"
LOOK_SECONDS = 1.0  # between looks at whose turn it is: a thousand runs do not speak at the same moment


@dataclass
class _Living:
    """A run that lives: how events name it, in whose context it is said, how often, and when again (monotonic)."""

    resource: dict[str, str]
    context: Context
    seconds: float
    due: float = 0.0


@dataclass
class _Speaker:
    """The runs of an event loop that are spoken for, and the task that speaks as long as there are some."""

    living: list[_Living] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


_seconds: ContextVar[float | None] = ContextVar("heartbeat_seconds", default=None)
_speakers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Speaker] = WeakKeyDictionary()
_silent: tuple[Settings, Settings] | None = None  # Prefect's settings, and the same without heartbeats: made once


@contextlib.contextmanager
def without_threads() -> Iterator[None]:
    """Have Prefect start no thread for the runs that begin inside: `heartbeats` speaks for them."""
    global _silent  # noqa: PLW0603
    seconds, context = PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value(), get_settings_context()
    if not seconds:  # nobody wants them, or this is inside already
        yield
        return
    if _silent is None or _silent[0] is not context.settings:
        silent = context.settings.copy_with_update({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
        _silent = (context.settings, silent)
    token = _seconds.set(seconds)
    try:
        with SettingsContext(profile=context.profile, settings=_silent[1]):
            yield
    finally:
        _seconds.reset(token)


@contextlib.asynccontextmanager
async def heartbeats(flow_run_id: str, name: str) -> AsyncIterator[None]:
    """Have it said, from a flow's beginning to its end, that its run lives, where Prefect does not say so."""
    if (seconds := _seconds.get()) is None:
        yield
        return
    speaker = _speakers.setdefault(asyncio.get_running_loop(), _Speaker())
    resource = {"prefect.resource.id": f"prefect.flow-run.{flow_run_id}", "prefect.resource.name": name}
    run = _Living(resource, copy_context(), seconds)
    speaker.living.append(run)
    if speaker.task is None:
        speaker.task = asyncio.create_task(_speak(speaker), name="heartbeats", context=Context())
    try:
        yield
    finally:
        speaker.living.remove(run)


async def _speak(speaker: _Speaker) -> None:
    try:
        while speaker.living:
            now = time.monotonic()
            for run in [run for run in speaker.living if run.due <= now]:
                run.due = now + run.seconds
                with contextlib.suppress(Exception):  # as with Prefect's own: nothing of it may fail a run
                    run.context.run(emit_event, HEARTBEAT, run.resource)
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        speaker.task = None  # it would keep a loop that is closed
