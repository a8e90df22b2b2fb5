"""The scheduler of a cluster: every job carries a key, and on any doubt Slurm is asked by that key."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from trackers.attempts import seconds_since
from trackers.files import make_directory
from trackers.graph import Job, Resources
from trackers.scheduler import Handed
from trackers.script import TERM_GRACE_SECONDS
from trackers.shares import try_lock
from trackers.site import Site
from trackers.slurm_queue import NEVER, SUBMIT_SECONDS, Answer, SlurmQueue, Snapshot, ask_slurm, queue_of
from trackers.slurm_text import (
    QueuedJob,
    Refusal,
    in_words,
    is_hopeless,
    parse_job_id,
    refusal_of,
    says_out_of_memory,
    slurm_words,
)
from trackers.states import JobState, Sighting, exit_words
from trackers.submission import Attempt, AttemptFiles, Submission, SubmissionFolder, Usage

HANDOVER_LOCK = "handover.lock"  # held while a process gives a submission's jobs to Slurm
AGAIN_SECONDS = 1.0  # after which a job that was to end and has not is named to scancel again
CANCEL_SECONDS = 20.0  # how long a cancel waits for the jobs' ends before it says that it does not know
KILL_AFTER_SECONDS = TERM_GRACE_SECONDS + 2.0  # a script that has not ended by then is killed with its job
LOOK_SECONDS = 10.0  # between looks at the files of jobs that run: their progress
LIMBO_SECONDS = 2.0  # the same for jobs whose end is being waited for
HELD = "JobHeldUser"  # Slurm's word for a retry that has not been released yet
HOPELESS_SECONDS = 60.0  # a job that waits for what only an administrator can change has been refused after so long
NEARLY_ALL = 0.95  # of the memory that was asked for: a job that was killed with that much ran out of it


class SlurmScheduler:
    """Gives jobs to Slurm and reads what became of them; everything it knows is on disk or in Slurm's answers."""

    shortest_gap_seconds = (
        0.4  # two requests each: with a shorter one, trivial jobs cost the controller more than sbatch
    )

    def __init__(self, site: Site) -> None:
        self._site = site

    @property
    def grace_seconds(self) -> float:
        """How long after Slurm's last word on a job its exit record may still come."""
        return queue_of_this_account().grace_seconds

    def ask(self, submissions: Iterable[Submission]) -> None:
        """Ask squeue once for each account, and accounting for the jobs that squeue does not know."""
        by_account: dict[str, list[Submission]] = {}
        for submission in submissions:
            by_account.setdefault(submission.account, []).append(submission)
        for account, theirs in by_account.items():
            queue = queue_of(account)
            snapshot = queue.ask()
            if not snapshot.error:
                queue.ask_accounting(_unknown_to(snapshot, theirs))
                queue.learn_grace()

    def fingerprint(self, submission: Submission) -> Hashable:
        """Return what Slurm says of the live jobs; the clock as well, where only their files can bring news."""
        jobs = queue_of(submission.account).snapshot.jobs
        seen, pause = [], math.inf
        for job in submission.live_jobs():
            attempt = submission.last(job.name)
            rows = jobs.get(submission.key(job.name, attempt.number), [])
            seen += [(row.id, row.word, row.reason, row.restarts) for row in rows]
            if not rows or any(row.state is None or row.state.ended or row.reason == HELD for row in rows):
                pause = min(pause, LIMBO_SECONDS)
            elif any(row.state is not JobState.PENDING or is_hopeless(row) for row in rows):
                pause = min(pause, LOOK_SECONDS)
        return (*seen, time.monotonic() // pause)

    def look(
        self, folder: SubmissionFolder, submission: Submission, attempts: Iterable[tuple[str, Attempt]]
    ) -> dict[str, Sighting]:
        """Say what is known of each job's attempt, by job name."""
        queue = queue_of(submission.account)
        return {job: _look(queue, folder, submission, job, attempt) for job, attempt in attempts}

    def due(self, folder: SubmissionFolder, submission: Submission) -> bool:
        """Tell whether a job has not been handed over, waits for the wrong jobs, or is there twice."""
        queue = queue_of(submission.account)
        if not queue.own or submission.cancelling:
            return False
        hand = _Hand(self._site, folder, submission, queue)
        return any(hand.due(job) for job in submission.live_jobs())

    def start(self, folder: SubmissionFolder, submission: Submission) -> list[Handed]:
        """Hand over what has not been, and point jobs to those that they must wait for now."""
        directory = folder.submission_directory(submission.number)
        lock = try_lock(directory / HANDOVER_LOCK)
        if lock is None:  # another process is at it
            return []
        try:
            submission = folder.read(submission.number)  # as it is now that nobody else hands it over
            return list(_Hand(self._site, folder, submission, queue_of(submission.account)).over())
        finally:
            os.close(lock)

    def cancel(self, folder: SubmissionFolder, submission: Submission) -> bool:
        """End every job of a submission; tell whether none of their processes is left."""
        queue = queue_of(submission.account)
        for _, _, files in _attempts(folder, submission):
            if files.directory.is_dir():
                files.revoke()  # one that lands late must not begin
        began = time.monotonic()
        told: dict[tuple[str, bool], float] = {}
        while True:
            snapshot = queue.ask()
            live, silent = _left(snapshot, folder, submission)
            if not snapshot.error and not live and not silent:
                return True
            now = time.monotonic()
            killing = now - began > KILL_AFTER_SECONDS
            if again := [i for i in live if now >= told.get((i, killing), 0.0) + AGAIN_SECONDS]:
                ask_slurm("scancel", *(("--full", "--signal=KILL") if killing else ()), *again)
                told |= {(i, killing): now for i in again}
            if time.monotonic() - began > CANCEL_SECONDS:
                return False
            time.sleep(0.25)

    def clear(self, folder: SubmissionFolder, submission: Submission, jobs: Collection[str]) -> bool:
        """Take jobs away that have not begun and never will; tell whether they can no longer begin."""
        for job in jobs:
            files = folder.attempt_files(submission, job, submission.last(job).number)
            make_directory(files.directory)
            if not files.revoke():
                return False
        keys = [submission.key(job, submission.last(job).number) for job in jobs]
        for _ in range(2):
            snapshot = queue_of(submission.account).ask()
            live = [row.id for key in keys for row in snapshot.jobs.get(key, []) if _is_live(row)]
            if snapshot.error or not live:
                break
            ask_slurm("scancel", *live)
        return not snapshot.error and not live

    def usage(self, submission: Submission) -> dict[str, Usage]:
        """Return what Slurm knows of each job's last attempt: from accounting where there is one."""
        queue = queue_of(submission.account)
        _end_leftovers(queue.snapshot, submission)
        ids = {job: submission.last(job).scheduler_id for job in submission.attempts}
        queue.ask_accounting([number for number in ids.values() if number], at_once=True)
        found = {}
        for job, number in ids.items():
            rows = queue.snapshot.jobs.get(submission.key(job, submission.last(job).number), [])
            row = _from_accounting(queue, submission, job, submission.last(job))
            row = row or next((row for row in rows if row.id == number), None)
            if row is not None:
                found[job] = Usage(row.node, row.queued_seconds, row.ran_seconds, row.cpu_seconds, row.memory_gb)
        return found


def queue_of_this_account() -> SlurmQueue:
    """Return the queue of the account that runs this process."""
    from trackers.processes import this_account

    return queue_of(this_account())


@dataclass
class _Hand:
    """One round of handing a submission's jobs over, in the order of their stages."""

    site: Site
    folder: SubmissionFolder
    submission: Submission
    queue: SlurmQueue
    ids: dict[str, str] = field(default_factory=dict)  # of live jobs that Slurm was seen to know just now

    def due(self, job: Job) -> bool:
        """Tell whether something is to be done about a live job, without asking Slurm."""
        attempt = self.submission.last(job.name)
        files = self._files(job)
        if not attempt.scheduler_id:
            return self.queue.room() and not self.submission.waits_for_a_failure(job.name)
        if self._hopeless(job) or files.held.exists() or sum(map(_is_live, self._rows(job, self.queue.snapshot))) > 1:
            return True
        self.ids = {j.name: self.submission.last(j.name).scheduler_id for j in self.submission.live_jobs()}
        after = self._after(job)
        return attempt.state is JobState.PENDING and after is not None and self._stale(job.name, after)

    def over(self) -> Iterator[Handed]:
        """Go through the live jobs; stop where Slurm takes no more for now."""
        live = self.submission.live_jobs()
        snapshot = self.queue.ask() if any(self._may_be_known(job) for job in live) else None
        if snapshot is not None and snapshot.error:
            for job in live:
                if not self._id(job, None):
                    yield self._handed(job, waiting=f"Slurm could not be asked: {snapshot.error}")
            return
        for job in live:
            outcome = self._known(job, snapshot) or self._submitted(job)
            if outcome is not None:
                yield outcome
                if outcome.refused or outcome.waiting:
                    break
        for job in live:
            if self._files(job).held.exists() and job.name in self.ids:
                self._release(job)

    def _known(self, job: Job, snapshot: Snapshot | None) -> Handed | None:
        """Adopt a job that Slurm has, end copies of it, and have it wait for the right ones."""
        number = self._id(job, snapshot)
        if not number:
            return None
        rows = self._rows(job, snapshot)
        if copies := [row.id for row in rows if row.id != number and _is_live(row)]:
            ask_slurm("scancel", *copies)
        row = next((row for row in rows if row.id == number), None)
        if row is not None and (_is_live(row) or row.state is JobState.COMPLETED):
            self.ids[job.name] = number
        attempt = self.submission.last(job.name)
        if refusal := self._hopeless(job):
            return self._handed(job, refused=refusal)
        after = self._after(job)
        if row is None or row.state is not JobState.PENDING or after is None or not self._stale(job.name, after):
            changed = number != attempt.scheduler_id
            return self._handed(job, scheduler_id=number, after=attempt.after) if changed else self._handed(job)
        words = f"Dependency={'afterok:' + ':'.join(after) if after else ''}"
        answer = ask_slurm("scontrol", "update", f"JobId={number}", words)
        return self._handed(job, scheduler_id=number, after=after if answer.ok else attempt.after)

    def _hopeless(self, job: Job) -> str:
        """Say for what a job has waited long enough that only an administrator can change; empty for others."""
        attempt = self.submission.last(job.name)
        rows = self._rows(job, self.queue.snapshot)
        patient = seconds_since(attempt.first_seen) < HOPELESS_SECONDS
        return "" if patient else next((in_words(row) for row in rows if is_hopeless(row)), "")

    def _submitted(self, job: Job) -> Handed | None:
        """Give a job to Slurm that it certainly does not have; None where it is not its turn yet."""
        after = self._after(job)
        if after is None:
            return None
        files = self._files(job)
        if not self.queue.room():
            return self._handed(job, waiting="it waits its turn: the account has as many jobs as it may have")
        hold = any(self.submission.last(name).scheduler_id for name in self._dependents(job))
        files.handed_over.touch()
        if hold:
            files.held.touch()
        answer = ask_slurm(
            *self._sbatch(job, after, hold=hold),
            seconds=SUBMIT_SECONDS,
            script=files.script.read_text(errors="surrogateescape"),
        )
        number = parse_job_id(answer.output) if answer.ok else None
        if number is None:
            return self._refused(job, answer)
        files.scheduler_id.write_text(number)
        self.queue.submitted()
        self.ids[job.name] = number
        return self._handed(job, scheduler_id=number, after=after)

    def _refused(self, job: Job, answer: Answer) -> Handed:
        match refusal_of(answer.errors, timed_out=answer.code is None):
            case Refusal.LIMIT:
                self._files(job).handed_over.unlink(missing_ok=True)
                self.queue.full()
                return self._handed(job, waiting=f"it waits its turn: {slurm_words(answer.errors)}")
            case Refusal.FINAL:
                self._files(job).handed_over.unlink(missing_ok=True)
                return self._handed(job, refused=answer.words)
            case _:
                if number := self._id(job, self.queue.ask()):  # the controller had accepted it all the same
                    self.ids[job.name] = number
                    return self._handed(job, scheduler_id=number, after=self._after(job) or ())
                return self._handed(
                    job, waiting=f"Slurm did not say whether it has it ({answer.words}); it is asked again"
                )

    def _release(self, job: Job) -> None:
        """Let a retry run that was held until those that wait for it knew of it."""
        if ask_slurm("scontrol", "release", self.ids[job.name]).ok:
            self._files(job).held.unlink(missing_ok=True)

    def _sbatch(self, job: Job, after: tuple[str, ...], *, hold: bool) -> list[str]:
        attempt = self.submission.last(job.name)
        key = self.submission.key(job.name, attempt.number)
        asked_by = " ".join(self.submission.requested_by.split())
        return [
            *("sbatch", "--parsable", f"--job-name={key}", f"--comment={key} {asked_by}".rstrip()),
            *(f"--chdir={self._files(job).directory}", f"--output={_output(self._files(job).script_log)}"),
            *("--open-mode=append", "--kill-on-invalid-dep=no"),
            *resource_words(attempt.resources),
            *self.site.slurm.words(),
            *([f"--dependency=afterok:{':'.join(after)}"] if after else []),
            *(["--hold"] if hold else []),
        ]

    def _after(self, job: Job) -> tuple[str, ...] | None:
        """Return the ids that a job must wait for; None where one of them is not to be had.

        Only ids that Slurm was just seen to know: a dependency on any other one counts as fulfilled.
        """
        names = [name for name in self.submission.before(job.name) if not self.submission.succeeded(name)]
        ids = [self.ids.get(name, "") for name in names]
        return tuple(ids) if all(ids) else None

    def _stale(self, job: str, wanted: tuple[str, ...]) -> bool:
        """Whether a job waits for an attempt that will not succeed, or not for one that it should wait for."""
        names = [name for name in self.submission.before(job) if self.submission.succeeded(name)]
        done = {attempt.scheduler_id for name in names for attempt in self.submission.attempts[name]}
        return set(self.submission.last(job).after) - done != set(wanted)

    def _dependents(self, job: Job) -> list[str]:
        return [j.name for j in self.submission.live_jobs() if job.name in self.submission.before(j.name)]

    def _may_be_known(self, job: Job) -> bool:
        return bool(self.submission.last(job.name).scheduler_id) or self._files(job).handed_over.exists()

    def _id(self, job: Job, snapshot: Snapshot | None) -> str:
        return known_id(self._files(job), self.submission.last(job.name), self._rows(job, snapshot))

    def _rows(self, job: Job, snapshot: Snapshot | None) -> list[QueuedJob]:
        key = self.submission.key(job.name, self.submission.last(job.name).number)
        return snapshot.jobs.get(key, []) if snapshot is not None else []

    def _files(self, job: Job) -> AttemptFiles:
        return self.folder.attempt_files(self.submission, job.name, self.submission.last(job.name).number)

    def _handed(self, job: Job, **facts: object) -> Handed:
        return replace(Handed(job.name, self.submission.last(job.name).number), **facts)  # type: ignore[arg-type]


def known_id(files: AttemptFiles, attempt: Attempt, rows: list[QueuedJob]) -> str:
    """Return under which id an attempt runs: the copy that has claimed it, else the one that Slurm named, else any."""
    if (owner := files.owner()) is not None and owner[1].isdecimal():
        return owner[1]
    named = attempt.scheduler_id or _read(files.scheduler_id)
    live = sorted((row.id for row in rows if _is_live(row)), key=int)
    if named and (not live or named in live):
        return named
    return live[0] if live else max((row.id for row in rows), key=int, default="")


def _look(queue: SlurmQueue, folder: SubmissionFolder, submission: Submission, job: str, attempt: Attempt) -> Sighting:
    files = folder.attempt_files(submission, job, attempt.number)
    snapshot = queue.snapshot
    if not attempt.scheduler_id and not files.handed_over.exists():
        return Sighting("seen", JobState.PLANNED, attempt.reason)
    if snapshot.error:
        words = attempt.reason if snapshot.began == NEVER else f"Slurm could not be asked: {snapshot.error}"
        return Sighting("unknown", None, words)
    rows = snapshot.jobs.get(submission.key(job, attempt.number), [])
    number = known_id(files, attempt, rows)
    row = next((row for row in rows if row.id == number), None) or _from_accounting(queue, submission, job, attempt)
    if row is None:
        if not queue.own or (queue.accounting_error and number):
            return Sighting("unknown", None, queue.accounting_error or f"the jobs of {queue.account} may be invisible")
        return Sighting("absent", scheduler_id=number)
    if row.state is None:
        return Sighting("unknown", None, f"Slurm says {row.word}, which is no state that is known here")
    return _seen(row, files, attempt.resources)


def _from_accounting(queue: SlurmQueue, submission: Submission, job: str, attempt: Attempt) -> QueuedJob | None:
    """Return what accounting knows of an attempt; an id counts only together with our key."""
    found = queue.ended.get(attempt.scheduler_id)
    return found if found is not None and found.key == submission.key(job, attempt.number) else None


def _seen(row: QueuedJob, files: AttemptFiles, resources: Resources) -> Sighting:
    assert row.state is not None  # noqa: S101 - see _look
    state, reason, never_began = row.state, in_words(row), False
    if state.ended and state is not JobState.COMPLETED:
        never_began = files.revoke()
        if state is JobState.CANCELLED:
            reason = row.reason if row.reason else "cancelled in Slurm"
        elif says_out_of_memory(files.scheduler_words()) or (row.memory_gb or 0) >= NEARLY_ALL * resources.memory_gb:
            state, reason = (
                JobState.OUT_OF_MEMORY,
                f"it used more than the {resources.memory_gb:g} GB that it asked for",
            )
        elif state is JobState.TIMEOUT:
            reason = f"it ran longer than the {resources.minutes} min that it asked for"
        elif state is JobState.FAILED:
            reason = f"ended by signal {row.signal}" if row.signal else exit_words(row.exit_code)
        elif state is JobState.NODE_FAIL:
            reason = f"its node {row.node} failed".replace("  ", " ")
    return Sighting("seen", state, reason, row.restarts, row.id, never_began)


def _left(snapshot: Snapshot, folder: SubmissionFolder, submission: Submission) -> tuple[list[str], list[str]]:
    """Return the ids of jobs that have not ended, and the jobs that began and have not written how they ended."""
    live, silent = [], []
    for job, attempt, files in _attempts(folder, submission):
        rows = snapshot.jobs.get(submission.key(job, attempt.number), [])
        live += [row.id for row in rows if _is_live(row)]
        if snapshot.error and not attempt.state.ended and (number := known_id(files, attempt, [])):
            live.append(number)
        owner = files.owner()
        if owner is not None and not attempt.state.ended and not files.exit_record(owner[0]).exists():
            silent.append(job)
    return live, silent


def _attempts(folder: SubmissionFolder, submission: Submission) -> Iterator[tuple[str, Attempt, AttemptFiles]]:
    for job, attempts in submission.attempts.items():
        for attempt in attempts:
            yield job, attempt, folder.attempt_files(submission, job, attempt.number)


def _unknown_to(snapshot: Snapshot, submissions: Iterable[Submission]) -> list[str]:
    """Return the ids that the records name and squeue does not show any more."""
    return [
        attempt.scheduler_id
        for submission in submissions
        for job in submission.live_jobs()
        if (attempt := submission.last(job.name)).scheduler_id
        and submission.key(job.name, attempt.number) not in snapshot.jobs
    ]


def _end_leftovers(snapshot: Snapshot, submission: Submission) -> None:
    """End what Slurm takes for running though it has written its end: Slurm might start it once more."""
    last = {job: submission.last(job) for job in submission.attempts}
    ended = [submission.key(job, attempt.number) for job, attempt in last.items() if attempt.state.ended]
    if left := [row.id for key in ended for row in snapshot.jobs.get(key, []) if _is_live(row)]:
        ask_slurm("scancel", *left)


def _is_live(row: QueuedJob) -> bool:
    return row.state is None or not row.state.ended


def _output(path: Path) -> str:
    """Return a log's path as sbatch takes it: it has symbols of its own, and no way to write a backslash."""
    return "/dev/null" if "\\" in str(path) else str(path).replace("%", "%%")


def resource_words(resources: Resources) -> list[str]:
    """Return what a job asks for as sbatch takes it."""
    mebibytes = math.ceil(resources.memory_gb * 1e9 / 2**20)
    return [
        *("--ntasks=1", f"--cpus-per-task={resources.cpus}", f"--mem={mebibytes}M", f"--time={resources.minutes}"),
        *([f"--gpus={resources.gpus}"] if resources.gpus else []),
    ]


def _read(path: os.PathLike[str]) -> str:
    with contextlib.suppress(OSError), open(path) as file:  # noqa: PTH123
        return file.read().strip()
    return ""
