"""What Slurm says of an account's jobs: asked once for everybody in this process who wants to know."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from trackers.processes import this_account
from trackers.script import SET_BY_SLURM
from trackers.slurm_text import (
    SACCT_FIELDS,
    SQUEUE_FORMAT,
    QueuedJob,
    by_key,
    parse_kill_wait,
    parse_sacct,
    parse_squeue,
    slurm_words,
)
from trackers.states import RECORD_GRACE_SECONDS

QUESTION_SECONDS = 60.0  # a controller under load may take as long as its MessageTimeout, and more
SUBMIT_SECONDS = 90.0
ACCOUNTING_PAUSE_SECONDS = 30.0  # between questions to accounting that brought nothing new
LATE_FILES_SECONDS = 35.0  # how much later than KillWait a network file system may show a record
NOT_OURS = (  # people's defaults for sbatch that its options cannot take back; a server's description refuses these too
    *("SBATCH_ARRAY_INX", "SBATCH_CLUSTERS", "SBATCH_ERROR", "SBATCH_WAIT"),
    *("SBATCH_GPUS", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU"),
)
LIMIT_FORGOTTEN_SECONDS = 60.0  # a learnt submit limit is tried again after so long


@dataclass(frozen=True)
class Answer:
    """What a Slurm program printed.

    Attributes:
        code: None where it was ended because it took too long, or could not be started.
    """

    code: int | None
    output: str
    errors: str

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.code == 0

    @property
    def words(self) -> str:
        """What it said, for people."""
        return slurm_words(self.errors) or (f"exit code {self.code}" if self.code else "no answer")


def ask_slurm(*words: str, seconds: float = QUESTION_SECONDS, script: str | None = None) -> Answer:
    """Run one of Slurm's programs, with times in ISO 8601; never raises."""
    environment = {name: value for name, value in os.environ.items() if not _misleads(name)}
    environment["SLURM_TIME_FORMAT"] = "standard"
    process = None
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE if script is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        content = None if script is None else script.encode(errors="surrogateescape")
        output, errors = process.communicate(content, timeout=seconds)
        return Answer(process.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))
    except subprocess.TimeoutExpired:
        assert process is not None  # noqa: S101 - it timed out, so it was started
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, 9)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()
        return Answer(None, "", f"{words[0]} gave no answer within {seconds:g} s")
    except OSError as error:
        return Answer(None, "", f"{words[0]} could not be started: {error.strerror or error}")


def _misleads(variable: str) -> bool:
    """Tell whether a variable would change a question or a job, which would then look absent or be another one."""
    return variable.startswith(("SQUEUE_", "SCANCEL_", "SACCT_", "SINFO_")) or variable in (*SET_BY_SLURM, *NOT_OURS)


NEVER = float("-inf")


@dataclass(frozen=True)
class Snapshot:
    """One answer of squeue.

    Attributes:
        began: when it was asked, monotonic clock.
        error: why it could not be asked; empty where it answered.
    """

    began: float = NEVER
    jobs: dict[str, list[QueuedJob]] = field(default_factory=dict)
    live: int = 0
    error: str = "it has not been asked yet"


class SlurmQueue:
    """The jobs of one account. Questions that are asked while one is under way share the next one.

    Attributes:
        snapshot: the last answer of squeue.
        ended: what accounting said, by job id.
        grace_seconds: how long after Slurm's last word on a job its exit record may still come.
    """

    def __init__(self, account: str) -> None:
        self.account = account
        self.snapshot = Snapshot()
        self.ended: dict[str, QueuedJob] = {}
        self.accounting_error = ""
        self.accounting = True
        self.grace_seconds = RECORD_GRACE_SECONDS
        self._knows_kill_wait = False
        self._accounting_due: dict[str, float] = {}
        self._asking = threading.Lock()
        self._limit: tuple[int, float] | None = None
        self._submitted_since = 0

    @property
    def own(self) -> bool:
        """Whether it is the account that asks: another one's jobs may be invisible to us."""
        return self.account == this_account()

    def ask(self, seconds: float = QUESTION_SECONDS) -> Snapshot:
        """Return an answer to a question that began after this call; one with an error where it takes longer."""
        called = time.monotonic()
        if not self._asking.acquire(timeout=seconds):
            return replace(self.snapshot, error=f"squeue gave no answer within {seconds:g} s")
        try:
            if self.snapshot.began < called:
                self.snapshot = self._squeue(seconds)
                if not self.snapshot.error:
                    self._submitted_since = 0
            return self.snapshot
        finally:
            self._asking.release()

    def ask_accounting(self, ids: Collection[str], *, at_once: bool = False) -> None:
        """Ask accounting about jobs that squeue does not know; what it says is kept in `ended`.

        Whether there is accounting at all is learnt from its first answer.
        """
        now = time.monotonic()
        wanted = sorted({i for i in ids if at_once or now >= self._accounting_due.get(i, 0.0)}, key=int)
        if not wanted or not self.accounting:
            return
        with self._asking:
            answer = ask_slurm("sacct", "-n", "-P", "-D", "-j", ",".join(wanted), "-o", SACCT_FIELDS)
        self._accounting_due.update(dict.fromkeys(wanted, now + ACCOUNTING_PAUSE_SECONDS))
        self.accounting_error = "" if answer.ok else answer.words
        if answer.ok:
            self.ended.update(parse_sacct(answer.output))
        elif "disabled" in answer.errors or (answer.code is None and "could not be started" in answer.errors):
            self.accounting, self.accounting_error = False, ""

    def learn_grace(self) -> None:
        """Ask, once a job has ended and until there is an answer, how long its record may still come after that."""
        ended = (job.state for jobs in self.snapshot.jobs.values() for job in jobs)
        if self._knows_kill_wait or not any(state is not None and state.ended for state in ended):
            return
        wait = parse_kill_wait(ask_slurm("scontrol", "show", "config").output)
        if wait is not None:
            self.grace_seconds, self._knows_kill_wait = wait + LATE_FILES_SECONDS, True

    def room(self) -> bool:
        """Tell whether another job may be submitted, as far as the limit is known."""
        if self._limit is None:
            return True
        count, learnt = self._limit
        if time.monotonic() - learnt > LIMIT_FORGOTTEN_SECONDS:
            self._limit = None
            return True
        return not self.snapshot.error and self.snapshot.live + self._submitted_since < count

    def submitted(self) -> None:
        """Count a job that Slurm accepted after the last question."""
        self._submitted_since += 1

    def full(self) -> None:
        """Learn from a refusal how many jobs the account may have."""
        self._limit = (self.ask().live, time.monotonic())  # 0 where others of the same account fill it

    def _squeue(self, seconds: float) -> Snapshot:
        began = time.monotonic()
        question = ("squeue", "-h", "-t", "all", "-u", self.account, "-O", SQUEUE_FORMAT)
        answer = ask_slurm(*question, seconds=seconds)
        if not answer.ok:
            return Snapshot(began, self.snapshot.jobs, error=answer.words)
        jobs = parse_squeue(answer.output)
        if answer.output.strip() and (not jobs or not answer.output.endswith("\n")):
            return Snapshot(began, self.snapshot.jobs, error="squeue printed something that is no list of jobs")
        live = sum(job.state is None or not job.state.ended for job in jobs)
        return Snapshot(began, by_key(jobs), live, "")


@functools.cache
def queue_of(account: str) -> SlurmQueue:
    """Return this process's queue of an account."""
    return SlurmQueue(account)
