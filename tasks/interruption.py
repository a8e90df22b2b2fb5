"""What tells a person's cancel from any other cancellation: a signal to this process, or the run's state in Prefect."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any, ClassVar

STATE_POLL_SECONDS = 5.0  # a run that no worker started is told of a cancel by its own state only
FREE = "; its jobs have ended and the lock is free"
PATIENCE = 3  # signals, the last of which ends the process without cleaning up
REPORT_SECONDS = 20.0  # for telling Prefect how a run ended that a signal has ended; its client would try for minutes

_current: ContextVar[Interruption | None] = ContextVar("interruption", default=None)


class Interruption:
    """Whether, and why, somebody wants a run to end, with all runs that it calls in its own task.

    A run that has a task of its own below another one, as a project's sessions have, can be ended alone.

    Attributes:
        obeyed: whether a run of this process has ended because somebody wanted it to.
        stays: for each lock that could not be given back, a sentence that says so.
    """

    obeyed: ClassVar[bool] = False
    stays: ClassVar[dict[str, str]] = {}
    _unheard: ClassVar[int | None] = None
    _leaving: ClassVar[asyncio.TimerHandle | None] = None

    def __init__(self, run: asyncio.Task[Any], outer: Interruption | None = None) -> None:
        self.outer = outer
        self.runs: dict[str, Interruption] = {} if outer is None else outer.runs  # all of the process: one question
        self._reason = ""
        self._since = 0.0
        self._run = run
        self._loop = run.get_loop()
        self._count = 0
        self._previous: dict[int, Any] = {}

    @staticmethod
    def current() -> Interruption | None:
        """Return the interruption that the present run listens to."""
        return _current.get()

    @property
    def reason(self) -> str:
        """Who asked, for people; empty as long as nobody did."""
        return self._reason or (self.outer.reason if self.outer is not None else "")

    @property
    def since(self) -> float:
        """When, by the monotonic clock."""
        return self.outer.since if self.outer is not None and not self._reason else self._since

    def ask(self, reason: str) -> None:
        """Cancel the run, once."""
        if not self.reason:
            self._since = time.monotonic()
            self._reason = reason
            self._loop.call_soon_threadsafe(self._run.cancel)

    @contextlib.contextmanager
    def listening(self, flow_run_id: str) -> Iterator[Interruption]:
        """Be asked also by who cancels this run in Prefect."""
        self.runs[flow_run_id] = self
        try:
            yield self
        finally:
            del self.runs[flow_run_id]

    def is_of(self, run: asyncio.Task[Any]) -> bool:
        """Whether a task is the one that is cancelled when somebody asks."""
        return self._run is run

    def install(self) -> None:
        """Take SIGINT and SIGTERM for the outermost run; a thread other than the main one cannot have them."""
        if self.outer is not None:
            self.outer.install()
        elif threading.current_thread() is threading.main_thread():
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
        if self._reason:
            self._run.uncancel()

    @staticmethod
    def pass_on() -> None:
        """Send this process the signal that ended the outermost run, for whoever handled it before us."""
        number, Interruption._unheard = Interruption._unheard, None
        if Interruption._leaving is not None:
            Interruption._leaving.cancel()
        if number is not None:
            os.kill(os.getpid(), number)

    @staticmethod
    def leave_soon() -> None:
        """Where a signal ends this process and nothing is left but to tell Prefect, do not wait long for that."""
        if Interruption._leaving is not None:
            Interruption._leaving.cancel()
        if (number := Interruption._unheard) is not None:
            Interruption.obeyed = True
            loop = asyncio.get_running_loop()
            Interruption._leaving = loop.call_later(REPORT_SECONDS, Interruption._leave, number)

    @staticmethod
    def _leave(number: int) -> None:
        sys.stderr.write(f"{Interruption.in_words()}. Prefect does not answer, and was not told.\n")
        _end_now(number)

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
            _end_now(number)
        elif self._count > 1:
            sys.stderr.write(
                f"{name} again: the jobs are being ended, which takes up to 10 s; once more ends this now\n"
            )
        else:
            self.ask(f"ended by {name}")


def _end_now(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)  # the handlers of asyncio and Prefect would wait for the run
    os.kill(os.getpid(), number)


@contextlib.asynccontextmanager
async def interruptible(flow_run_id: str) -> AsyncIterator[Interruption]:
    """Listen for whoever wants this run to end; runs that it calls in its own task end with it, and it with them."""
    outer, run = _current.get(), asyncio.current_task()
    assert run is not None  # noqa: S101 - a coroutine runs in a task
    if outer is not None and outer.is_of(run):
        outer.install()  # the engine of an inner flow run has put its own handler over ours
        with outer.listening(flow_run_id):
            yield outer
        return
    interruption = Interruption(run, outer)
    token = _current.set(interruption)
    interruption.install()
    watch = (
        asyncio.create_task(_watch_states(interruption.runs), name="watch the own states") if outer is None else None
    )
    try:
        with interruption.listening(flow_run_id):
            yield interruption
    finally:
        if watch is not None:
            watch.cancel()
            Interruption.obeyed |= bool(interruption.reason)
            Interruption.leave_soon()
        interruption.restore()
        interruption.uncancel()
        _current.reset(token)


async def _watch_states(runs: dict[str, Interruption]) -> None:
    from prefect.client.orchestration import get_client  # commands that only look do without Prefect
    from prefect.client.schemas.filters import FlowRunFilter

    cancelled = {"type": {"any_": ["CANCELLING", "CANCELLED"]}}
    async with get_client() as client:
        while True:
            await asyncio.sleep(STATE_POLL_SECONDS)
            with contextlib.suppress(Exception):  # no answer is no answer
                wanted = FlowRunFilter.model_validate({"id": {"any_": list(runs)}, "state": cancelled})
                for found in await client.read_flow_runs(flow_run_filter=wanted):
                    if (interruption := runs.get(str(found.id))) is not None:
                        interruption.ask("cancelled in Prefect")
