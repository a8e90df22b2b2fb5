"""A job's task run in Prefect: people see in its name, and in the colour of its bar, how the job stands."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from prefect import State
from prefect.context import TaskRunContext
from prefect.states import Pending, Running
from prefect.utilities.engine import emit_task_run_state_change_event

SETTLE_SECONDS = 1.0  # a state that lasts for less is not shown: each costs Prefect an event
QUEUED = "Queued"  # of a job that waits, to Prefect a pending run
WAITING = ("PLANNED", "PENDING")


class JobRun:
    """The task run that follows a job, as long as it does.

    Prefect's pages of a run show its name and no message, so the name tells Slurm's id and what the job waits for. It
    travels with the events of the run's states, as does its tag, the stage: nothing is asked of Prefect's API. A tag
    that a task has from the start makes Prefect ask for a place under a limit of that name, a request for each task.
    """

    def __init__(self, stage: str) -> None:
        context = TaskRunContext.get()
        assert context is not None  # noqa: S101 - it is made in tasks only
        self._run = context.task_run
        self._run.tags.append(stage)
        self._stage = stage
        self._standing: tuple[str, bool] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def show(self, job: dict[str, Any]) -> None:
        """Show how the job stands, once it has stood so for a moment."""
        standing = name_of(self._stage, job), job["state"] in WAITING
        if standing != self._standing:
            self._standing = standing
            self._cancel()
            self._timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._tell, *standing, job["reason"])

    def end(self, job: dict[str, Any]) -> None:
        """Leave the name as it is to stay; the run's last state goes out with it."""
        self._cancel()
        self._run.name = name_of(self._stage, job)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tell(self, name: str, waits: bool, message: str) -> None:
        self._run.name = name
        state: State[Any] = Pending(name=QUEUED, message=message) if waits else Running(message=message)
        with contextlib.suppress(Exception):  # it is a courtesy
            emit_task_run_state_change_event(self._run, self._run.state, state)


def name_of(stage: str, job: dict[str, Any]) -> str:
    """Return a task run's name: stage, job, Slurm's id, and what it waits for or how it failed."""
    name = f"{stage}: {job['name']}"
    words = [f"job {job['id']}"] if job["id"] else []
    if job["state"] in WAITING and not job["over"]:
        words.append(job["reason"])
    elif job["state"] not in ("RUNNING", "COMPLETED", *WAITING):
        words.append(job["state"])
    said = ": ".join(word for word in words if word)
    return f"{name}, {said}" if said else name
