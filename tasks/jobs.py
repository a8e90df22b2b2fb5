"""Handing a graph to the server side, following every job to its end, and closing the submission."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed, Failed

from tasks.artifacts import board
from tasks.backoff import pause
from tasks.client import error_of
from tasks.lease import Lease
from tasks.outcome import in_sentences
from tasks.pages import jobs_progress
from tasks.task_run import JobRun
from tasks.words import describe, why
from trackers.errors import (
    FileSystemError,
    LockTimeoutError,
    LoginNeededError,
    NotYetError,
    SessionflowError,
    UnreachableError,
)
from trackers.graph import Graph
from trackers.states import JobState

END_SECONDS = 60.0  # for a server that is out of reach when jobs are to be ended
HANDOVER_SECONDS = 3.0  # for a scheduler that takes a graph while its jobs are to be ended
WAIT_SECONDS = 5.0  # between tries at what waits for people

View = dict[str, Any]
PASSING = (FileSystemError, LockTimeoutError)  # a volume that is full, or away: people mend it, and no job need end
logger = logging.getLogger("sessionflow")
OBSERVER: ContextVar[Callable[[View], None] | None] = ContextVar("observer", default=None)
"""Told of every change of a submission that this process follows: the command's live display."""


class Submitted:
    """One submission that is followed: its last view, and who waits for one of its jobs."""

    def __init__(self, lease: Lease, view: View) -> None:
        self.lease = lease
        self.view = view
        self._key = f"{view['target']} {view['name']} {lease.incarnation}"
        self._changed = asyncio.Event()
        self._lost = asyncio.Event()
        self._trouble: Exception | None = None
        self._said = ""
        self._watching: asyncio.Task[None] | None = None

    async def ask(self, call: str, **arguments: Any) -> View:
        """Ask something about the submission; the answer is its newest view."""
        view: View = await self.lease.ask(
            call, pipeline=self.view["pipeline"], number=self.view["number"], key=self._key, **arguments
        )
        self._see(view)
        return view

    async def __aenter__(self) -> Submitted:
        """Begin to follow."""
        if (present := board()) is not None:
            present.show(lambda: jobs_progress(self.view))
        self.lease.client.listen(self._key, self._hear)
        self._watching = asyncio.create_task(self._watch(), name=f"follow {self.view['name']}")
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Follow no more."""
        self.lease.client.unlisten(self._key)
        if self._watching is not None:
            self._watching.cancel()

    def job(self, name: str) -> View:
        """Return what is known of a job now."""
        found: View = next(job for job in self.view["jobs"] if job["name"] == name)
        return found

    def over(self, name: str) -> bool:
        """Whether a job has ended, or will never start."""
        return bool(self.job(name)["over"])

    async def change(self) -> None:
        """Wait until something has changed.

        Raises:
            StaleLeaseError, SessionflowError: the submission can be followed no longer.
        """
        await self._changed.wait()
        if self._trouble is not None:
            raise self._trouble

    def _hear(self, event: View) -> None:
        if event["event"] == "submission":
            self._see(event["view"])
        elif event["event"] == "lost":
            self._lost.set()
        elif event["event"] == "trouble":
            self._suffer(error_of(event["error"]))

    def _suffer(self, error: Exception) -> None:
        """Say, once, what people can mend; end with what they cannot."""
        if isinstance(error, PASSING):
            if str(error) != self._said:
                logger.warning("%s cannot be looked after as it should: %s", self.view["name"], error)
            self._said = str(error)
            return
        self._trouble = error  # whoever waits for a job raises it
        self._changed.set()

    def _see(self, view: View) -> None:
        self.view = view
        if (observer := OBSERVER.get()) is not None:
            observer(view)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _watch(self) -> None:
        """Ask to be told of changes, and again whenever the channel broke."""
        just_seen = True  # its view is submit's answer: the scheduler need not be asked again at once
        while True:
            self._lost.clear()
            try:
                await self.ask("watch", just_seen=just_seen)
                just_seen = False
            except ConnectionError:  # it is tried for as long as it takes: a lost connection fails no job
                self._lost.set()
            except Exception as error:
                self._suffer(error)
                if self._trouble is not None:
                    return
                await asyncio.sleep(WAIT_SECONDS)
                continue
            await self._lost.wait()


@task(name="submit", task_run_name="submit", persist_result=False, cache_policy=NO_CACHE)
@in_sentences
async def submit(lease: Lease, request: dict[str, Any], graph: Graph) -> View:
    """Hand a pipeline's whole graph over in one request; what runs of it already is adopted.

    The request has an id: it is sent again when its answer is lost, and then known.
    """
    view: View = await lease.ask("submit", **request, graph=graph.to_json(), manager_id=lease.manager_id)
    adopted = [job["name"] for job in view["jobs"] if job["ended"] or job["state"] not in ("PLANNED", "PENDING")]
    get_run_logger().info(
        "%s: %s jobs handed over%s",
        view["name"],
        len(view["jobs"]),
        f"; adopted: {', '.join(adopted)}" if adopted else "",
    )
    return view


@task(name="follow", persist_result=False, cache_policy=NO_CACHE)
@in_sentences
async def follow(submitted: Submitted, name: str) -> State[Any]:
    """Follow a job to its end, through its retries; the run's state is how it ended."""
    logger = get_run_logger()
    said, run = "", JobRun(submitted.job(name)["stage"])
    while not submitted.over(name):
        job = submitted.job(name)
        run.show(job)
        if (words := describe(job)) != said:
            said = words
            logger.info("%s", words)
        await submitted.change()
    job = submitted.job(name)
    run.end(job)
    if job["state"] == JobState.COMPLETED:
        return Completed()
    if job["blocked"] or job["state"] == JobState.CANCELLED:
        return Cancelled(message=why(job))
    return Failed(message=why(job))


@task(name="finish", task_run_name="finish", persist_result=False, cache_policy=NO_CACHE)
@in_sentences
async def finish(submitted: Submitted, keep_logs: bool) -> View:
    """Close the submission: result record, tracker, logs."""
    for attempt in itertools.count(1):
        try:
            return await submitted.ask("finish", keep_logs=keep_logs)
        except NotYetError as error:
            if attempt == 1:
                get_run_logger().warning("%s", error)
            await asyncio.sleep(pause(attempt, shortest=1.0))
    raise AssertionError


async def end_jobs(lease: Lease, request_id: str = "", submitting: asyncio.Future[View] | None = None) -> bool:
    """End every job that was submitted under this lease; the lease is marked where one may be left.

    Args:
        lease: whose jobs.
        request_id: of a request to submit that may be under way.
        submitting: that request. An sbatch of it that hangs is not waited for: once its submission has been ended, what
            lands of it late does not begin.

    Returns:
        whether a submission was open, or may have been.
    """
    before = lease.abandon
    lease.abandon = before or "it is not known whether its jobs have ended"  # should this be interrupted as well
    ended = False
    try:
        while True:
            submitted = submitting is None or bool((await asyncio.wait([submitting], timeout=HANDOVER_SECONDS))[0])
            outcome = await lease.ask_within(END_SECONDS, "cancel_all", manager_id=lease.manager_id)
            ended |= bool(outcome["ended"] or outcome["left"])
            if submitted or request_id in outcome["requests"]:
                break
    except (UnreachableError, LoginNeededError) as error:
        lease.abandon = f"its jobs could not be ended, since the server is out of reach ({error})"
        return True
    except SessionflowError as error:  # the lock must stay: nobody knows whether one still runs
        lease.abandon = f"it is not known whether its jobs have ended: {error}"
        return True
    finally:
        if submitting is not None:
            submitting.cancel()  # it must not be sent once more
    lease.abandon = f"jobs of {', '.join(outcome['left'])} could not be ended" if outcome["left"] else before
    return ended
