"""What tells a person's cancel from any other cancellation: a signal to this process, or the run's state in Prefect."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from types import FrameType
from typing import Any, ClassVar

STATE_POLL_SECONDS = 5.0  # a run that no worker started is told of a cancel by its own state only
FREE = "; its jobs have ended and the lock is free"
PATIENCE = 3  # signals, the last of which ends the process without cleaning up

_current: ContextVar[Interruption | None] = ContextVar("interruption", default=None)


class Interruption:
    """Whether, and why, somebody wants the outermost run of this process to end.

    Attributes:
        reason: who asked, for people; empty as long as nobody did.
        since: when, by the monotonic clock.
        obeyed: whether a run of this process has ended because somebody wanted it to.
        stays: for each lock that could not be given back, a sentence that says so.
    """

    obeyed: ClassVar[bool] = False
    stays: ClassVar[dict[str, str]] = {}
    _unheard: ClassVar[int | None] = None

    def __init__(self, run: asyncio.Task[Any]) -> None:
        self.reason = ""
        self.since = 0.0
        self._run = run
        self._loop = run.get_loop()
        self._count = 0
        self._previous: dict[int, Any] = {}

    @staticmethod
    def current() -> Interruption | None:
        """Return the interruption that the present run listens to."""
        return _current.get()

    def ask(self, reason: str) -> None:
        """Cancel the run, once."""
        if not self.reason:
            self.since = time.monotonic()
            self.reason = reason
            self._loop.call_soon_threadsafe(self._run.cancel)

    def install(self) -> None:
        """Take SIGINT and SIGTERM; a thread other than the main one cannot have them."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.signal(number, self._on_signal)
                if getattr(handler, "__func__", None) is not Interruption._on_signal:
                    self._previous.setdefault(number, handler)

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def uncancel(self) -> None:
        """Count the cancel that was asked for as obeyed."""
        if self.reason:
            self._run.uncancel()

    @staticmethod
    def pass_on() -> None:
        """Send this process the signal that ended the outermost run, for whoever handled it before us."""
        number, Interruption._unheard = Interruption._unheard, None
        if number is not None:
            os.kill(os.getpid(), number)

    @staticmethod
    def in_words() -> str:
        """Say for people what has become of what they have ended."""
        if not Interruption.obeyed:
            return "ended on request"
        return "ended on request" + (". " + " ".join(Interruption.stays.values()) if Interruption.stays else FREE)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        Interruption._unheard = Interruption._unheard or number
        name = signal.Signals(number).name
        if self._count >= PATIENCE:
            sys.stderr.write(
                f"{name} once more: ended before its jobs were; those that are left run on, and the lock stays. "
                "Start the same again to continue them, or end them with `sessionflow cancel`.\n"
            )
            signal.signal(number, signal.SIG_DFL)  # the handlers of asyncio and Prefect would wait for the run
            os.kill(os.getpid(), number)
        elif self._count > 1:
            sys.stderr.write(
                f"{name} again: the jobs are being ended, which takes up to 10 s; once more ends this now\n"
            )
        else:
            self.ask(f"ended by {name}")


@contextlib.asynccontextmanager
async def interruptible(flow_run_id: str) -> AsyncIterator[Interruption]:
    """Listen for whoever wants this run to end; runs inside it share the outermost one's ear."""
    if (outer := _current.get()) is not None:
        outer.install()  # the engine of an inner flow run has put its own handler over ours
        yield outer
        return
    run = asyncio.current_task()
    assert run is not None  # noqa: S101 - a coroutine runs in a task
    interruption = Interruption(run)
    token = _current.set(interruption)
    interruption.install()
    watch = asyncio.create_task(_watch_state(flow_run_id, interruption.ask), name="watch the own state")
    try:
        yield interruption
    finally:
        watch.cancel()
        Interruption.obeyed |= bool(interruption.reason)
        interruption.restore()
        interruption.uncancel()
        _current.reset(token)


async def _watch_state(flow_run_id: str, ask: Callable[[str], None]) -> None:
    from prefect.client.orchestration import get_client  # commands that only look do without Prefect

    async with get_client() as client:
        while True:
            await asyncio.sleep(STATE_POLL_SECONDS)
            with contextlib.suppress(Exception):  # no answer is no answer
                state = (await client.read_flow_run(flow_run_id)).state  # type: ignore[arg-type]
                if state is not None and (state.is_cancelling() or state.is_cancelled()):
                    ask("cancelled in Prefect")
