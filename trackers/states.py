"""What became of a job: the states, and the rule that reads them from an exit record and the scheduler's answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

EXIT_RECORD_DEADLINE_SECONDS = 60.0  # a job that wrote its exit record should be out of the scheduler by then
RECORD_GRACE_SECONDS = 65.0  # beyond KillWait (30 s) and a network file system's cache (30 s), a record may still come
LOST_DEADLINE_SECONDS = 600.0  # nothing anywhere for so long: the job is lost
NEVER_SATISFIED = "DependencyNeverSatisfied"  # Slurm's word for a job that waits for one that has failed

LEFT_EXIT_CODES = {  # of the job script, where it left before its command, or could not keep its records
    111: "its folder on the server is not there",
    112: "another copy of it runs, or it had been given up",
    113: "its working directory is not there",
    114: "a job before it has not succeeded",
    115: "its records could not be written: is the volume full?",
    116: "its environment could not be activated",
}


class JobState(StrEnum):
    """A job attempt's state; Slurm's names where Slurm has one."""

    PLANNED = "PLANNED"  # intent is on disk, the scheduler may not know it yet
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETING = "COMPLETING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    LOST = "LOST"

    @property
    def ended(self) -> bool:
        """Whether nothing of this attempt runs or will run."""
        return self in _ENDED


_ENDED = frozenset(
    {
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.TIMEOUT,
        JobState.OUT_OF_MEMORY,
        JobState.NODE_FAIL,
        JobState.PREEMPTED,
        JobState.LOST,
    }
)


_NOT_BEGUN = frozenset({JobState.PLANNED, JobState.PENDING})


@dataclass(frozen=True)
class ExitRecord:
    """What the job script wrote last.

    Attributes:
        exit_code: of the command, 128 + N after signal N.
        terminated: whether the script had been told to end (TERM).
        seconds: how long the command ran.
        cpu_seconds: processor time of the command and all that it waited for.
    """

    exit_code: int
    terminated: bool = False
    seconds: float | None = None
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Sighting:
    """The scheduler's answer about one job.

    Attributes:
        kind: "seen" in `state`; "absent": it answered, and does not know the job; "unknown": it could not be asked.
        reason: the scheduler's words, for people.
        restarts: how often the scheduler has requeued the job; records of earlier restarts do not count.
        scheduler_id: under which it knows the job.
        never_began: it ended without having begun, and can no longer begin: no record is to be waited for.
    """

    kind: Literal["seen", "absent", "unknown"]
    state: JobState | None = None
    reason: str = ""
    restarts: int | None = None
    scheduler_id: str = ""
    never_began: bool = False

    @property
    def summary(self) -> str:
        """What of it counts when one asks since when it has been so."""
        waiting_for = self.reason if self.state is JobState.PENDING else ""
        return f"{self.kind} {self.state or ''} {waiting_for}".rstrip()


@dataclass(frozen=True)
class Verdict:
    """What we hold a job's state to be.

    Attributes:
        state: None: no news, the last state stays.
        ask_accounting: the scheduler does not know the job: ask the second source.
    """

    state: JobState | None
    reason: str = ""
    ask_accounting: bool = False


def judge(
    record: ExitRecord | None, sighting: Sighting, waited_seconds: float, grace_seconds: float = RECORD_GRACE_SECONDS
) -> Verdict:
    """Decide a job's state; the table in the design, row by row.

    Args:
        record: the exit record of the scheduler's current restart of the job, if there is one.
        sighting: the scheduler's answer just now.
        waited_seconds: since the server side first saw the present combination; never a time that a node wrote.
        grace_seconds: how long a record may still come after the scheduler's last word.
    """
    if sighting.kind == "unknown":
        return Verdict(None, sighting.reason)
    seen = sighting.state if sighting.kind == "seen" else None
    if record is not None and seen not in _NOT_BEGUN:  # pending, or requeued: it will run, whatever a record says
        if seen is None or seen.ended or waited_seconds >= EXIT_RECORD_DEADLINE_SECONDS:
            return Verdict(*_by_record(record, seen, sighting.reason))
        return Verdict(JobState.COMPLETING)
    if seen is not None:
        # a script ends with success only after its record, wherever that is seen later; any other end may precede it
        too_early = (
            seen.ended
            and seen is not JobState.COMPLETED
            and waited_seconds < grace_seconds
            and not sighting.never_began
        )
        return Verdict(JobState.COMPLETING if too_early else seen, sighting.reason)
    if waited_seconds < LOST_DEADLINE_SECONDS:
        return Verdict(None, sighting.reason, ask_accounting=True)
    return Verdict(JobState.LOST, "neither scheduler nor accounting nor the disk knows what became of it")


def _by_record(record: ExitRecord, seen: JobState | None, reason: str) -> tuple[JobState, str]:
    """Read the end from the record, its cause refined by the scheduler, which knows of limits and cancels."""
    if record.exit_code == 0 and not record.terminated:
        return JobState.COMPLETED, ""
    if seen is not None and seen.ended and seen not in (JobState.COMPLETED, JobState.FAILED):
        return seen, reason
    if record.terminated:
        return JobState.CANCELLED, reason or "ended on request"
    return JobState.FAILED, exit_words(record.exit_code)


def exit_words(code: int) -> str:
    """Say what a job script's exit code means."""
    if 128 < code <= 192:
        return f"exit code {code} (ended by signal {code - 128})"
    return f"exit code {code}" + (f": {LEFT_EXIT_CODES[code]}" if code in LEFT_EXIT_CODES else "")
