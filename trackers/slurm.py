"""The scheduler of a cluster: every job carries a key, and on any doubt Slurm is asked by that key."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Hashable, Iterable, Iterator

from trackers.files import make_directory
from trackers.graph import Resources
from trackers.scheduler import Handed
from trackers.script import TERM_GRACE_SECONDS, exit_record
from trackers.shares import try_lock
from trackers.site import Site
from trackers.slurm_handover import Handover, known_id
from trackers.slurm_queue import NEVER, SlurmQueue, Snapshot, ask_slurm, queue_of
from trackers.slurm_text import (
    QueuedJob,
    in_words,
    is_hopeless,
    says_out_of_memory,
)
from trackers.states import NEVER_SATISFIED, JobState, Sighting, exit_words
from trackers.submission import Attempt, AttemptFiles, Submission, SubmissionFolder, Usage

HANDOVER_LOCK = "handover.lock"  # held while a process gives a submission's jobs to Slurm
AGAIN_SECONDS = 1.0  # after which a job that was to end and has not is named to scancel again
CANCEL_SECONDS = 20.0  # how long a cancel waits for the jobs' ends before it says that it does not know
KILL_AFTER_SECONDS = TERM_GRACE_SECONDS + 2.0  # a script that has not ended by then is killed with its job
SHORT_SECONDS = 3.0  # after which a cancel no longer waits to hear what runs before it tells it to end
WAKE_SECONDS = 1.0  # until a job that was resumed is so on its node as well: earlier, Slurm ends it by KILL
LOOK_SECONDS = 10.0  # between looks at the files of jobs that run: their progress
LIMBO_SECONDS = 2.0  # the same for jobs whose end is being waited for
KILLED = "137 1\n"  # the exit record of a job that was ended by KILL on request
HELD = "JobHeldUser"  # Slurm's word for a retry that has not been released yet
NEARLY_ALL = 0.95  # of the memory that was asked for: a job that was killed with that much ran out of it


class SlurmScheduler:
    """Gives jobs to Slurm and reads what became of them; everything it knows is on disk or in Slurm's answers."""

    shortest_gap_seconds = 0.25  # two requests each: with a shorter one, trivial jobs cost more of them than sbatch

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
        hand = Handover(self._site, folder, submission, queue)
        return any(hand.due(job) for job in submission.live_jobs())

    def start(self, folder: SubmissionFolder, submission: Submission) -> list[Handed]:
        """Hand over what has not been, and point jobs to those that they must wait for now."""
        directory = folder.submission_directory(submission.number)
        lock = try_lock(directory / HANDOVER_LOCK)
        if lock is None:  # another process is at it
            return []
        try:
            submission = folder.read(submission.number)  # as it is now that nobody else hands it over
            if submission.cancelling:
                return []
            return list(Handover(self._site, folder, submission, queue_of(submission.account)).over())
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
        suspended: set[str] = set()
        while True:
            snapshot = queue.ask() if told else queue.ask(SHORT_SECONDS)  # what runs is told to end also unasked
            if asleep := _suspended(snapshot, submission) - suspended:
                suspended |= asleep
                _wake(queue, submission, asleep)
                continue
            now = time.monotonic()
            killing = now - began > KILL_AFTER_SECONDS
            if killing and not snapshot.error:
                _write_ends(snapshot, folder, submission, suspended)
            live, silent = _left(snapshot, folder, submission)
            if not snapshot.error and not live and not silent:
                return True
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
            live = [row.id for key in keys for row in snapshot.jobs.get(key, []) if row.live]
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
        if not (queue.own or _wrote_its_end(files)) or (queue.accounting_error and number):
            return Sighting("unknown", None, queue.accounting_error or f"the jobs of {queue.account} may be invisible")
        return Sighting("absent", scheduler_id=number)
    if row.state is None:
        return Sighting("unknown", None, f"Slurm says {row.word}, which is no state that is known here")
    return _seen(row, files, attempt.resources)


def _wrote_its_end(files: AttemptFiles) -> bool:
    """Tell whether a job ended by itself; one that was told to end may have been requeued where we cannot see it."""
    record = exit_record(files, None)
    return record is not None and not record.terminated


def _from_accounting(queue: SlurmQueue, submission: Submission, job: str, attempt: Attempt) -> QueuedJob | None:
    """Return what accounting knows of an attempt; an id counts only together with our key."""
    found = queue.ended.get(attempt.scheduler_id)
    return found if found is not None and found.key == submission.key(job, attempt.number) else None


def _seen(row: QueuedJob, files: AttemptFiles, resources: Resources) -> Sighting:
    assert row.state is not None  # noqa: S101 - see _look
    state, reason, never_began = row.state, in_words(row), False
    if state.ended and state is not JobState.COMPLETED:
        never_began = files.revoke(row.restarts)
        if state is JobState.CANCELLED:
            waited = f" while it waited ({row.reason})" if row.reason else ""  # Slurm keeps the word for its waiting
            reason = NEVER_SATISFIED if row.reason == NEVER_SATISFIED else f"cancelled in Slurm{waited}"
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


def _wake(queue: SlurmQueue, submission: Submission, suspended: set[str]) -> None:
    """Let suspended jobs go on, so that TERM reaches them, and kill those that this account may not resume.

    Slurm ends a suspended job by KILL alone, and then its script cannot write how it ended.
    """
    ask_slurm("scontrol", "resume", ",".join(suspended))
    time.sleep(WAKE_SECONDS)
    if stay := _suspended(queue.ask(SHORT_SECONDS), submission) & suspended:
        ask_slurm("scancel", "--full", "--signal=KILL", *stay)


def _suspended(snapshot: Snapshot, submission: Submission) -> set[str]:
    keys = {submission.key(job, attempt.number) for job, made in submission.attempts.items() for attempt in made}
    return {row.id for key in keys for row in snapshot.jobs.get(key, []) if row.word == "SUSPENDED"}


def _write_ends(snapshot: Snapshot, folder: SubmissionFolder, submission: Submission, ids: Collection[str]) -> None:
    """Write the end of jobs that Slurm has ended and whose scripts would have written it by now."""
    for job, attempt, files in _attempts(folder, submission):
        for row in snapshot.jobs.get(submission.key(job, attempt.number), []):
            if row.id in ids and not row.live and files.owner() == (row.restarts, row.id):
                files.write_exit_record(row.restarts, KILLED)


def _left(snapshot: Snapshot, folder: SubmissionFolder, submission: Submission) -> tuple[list[str], list[str]]:
    """Return the ids of jobs that have not ended, and the jobs that began and have not written how they ended."""
    live, silent = [], []
    for job, attempt, files in _attempts(folder, submission):
        rows = snapshot.jobs.get(submission.key(job, attempt.number), [])
        live += [row.id for row in rows if row.live]
        if snapshot.error and not attempt.state.ended and (number := known_id(files, attempt, [])):
            live.append(number)
        owner = files.owner()
        newest = max((row.restarts for row in rows), default=0)  # what a lost node left was requeued, and writes no end
        if owner is None or owner[0] < newest or attempt.state.ended:
            continue
        if not files.exit_record(owner[0]).exists():
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
    if left := [row.id for key in ended for row in snapshot.jobs.get(key, []) if row.live]:
        ask_slurm("scancel", *left)
