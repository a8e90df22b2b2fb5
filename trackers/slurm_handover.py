"""Handing a submission's jobs to Slurm: each once, behind those it waits for, retries held until all know of them."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from trackers.attempts import seconds_since
from trackers.graph import Job, Resources
from trackers.scheduler import Handed
from trackers.site import Site
from trackers.slurm_queue import SUBMIT_SECONDS, Answer, SlurmQueue, Snapshot, ask_slurm
from trackers.slurm_text import QueuedJob, Refusal, in_words, is_hopeless, parse_job_id, refusal_of, slurm_words
from trackers.states import JobState
from trackers.submission import Attempt, AttemptFiles, Submission, SubmissionFolder

LONGEST_COMMENT = 1000  # bytes: with more than 1,024 Slurm refuses the job
HOPELESS_SECONDS = 60.0  # a job that waits for what only an administrator can change has been refused after so long


@dataclass
class Handover:
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
        if self._hopeless(job) or files.held.exists() or self._copies(job, self.queue.snapshot):
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
        if copies := self._copies(job, snapshot):
            ask_slurm("scancel", *copies)
        row = next((row for row in self._rows(job, snapshot) if row.id == number), None)
        if row is not None and (row.live or row.state is JobState.COMPLETED):
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

    def _copies(self, job: Job, snapshot: Snapshot | None) -> list[str]:
        """Return the live copies of an attempt that another copy has claimed; before that, any of them may run it."""
        live = [row.id for row in self._rows(job, snapshot) if row.live]
        owner = _claimed(self._files(job)) if len(live) > 1 else ""  # the folder is read for hardly any job
        return [number for number in live if owner and number != owner]

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
        if files.revoked():  # the submission is being cancelled
            return None
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
        if files.revoked():  # meanwhile: whoever cancels may have looked for it before Slurm had it
            ask_slurm("scancel", number)
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
        return [
            *("sbatch", "--parsable", f"--job-name={key}", f"--comment={_comment(key, self.submission.requested_by)}"),
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
    if owner := _claimed(files):
        return owner
    named = attempt.scheduler_id or _read(files.scheduler_id)
    live = sorted((row.id for row in rows if row.live), key=int)
    if named and (not live or named in live):
        return named
    return live[0] if live else max((row.id for row in rows), key=int, default="")


def _claimed(files: AttemptFiles) -> str:
    """Return the id of the copy that runs an attempt; empty as long as none has begun."""
    owner = files.owner()
    return owner[1] if owner is not None and owner[1].isdecimal() else ""


def resource_words(resources: Resources) -> list[str]:
    """Return what a job asks for as sbatch takes it."""
    mebibytes = math.ceil(resources.memory_gb * 1e9 / 2**20)
    return [
        *("--ntasks=1", f"--cpus-per-task={resources.cpus}", f"--mem={mebibytes}M", f"--time={resources.minutes}"),
        *([f"--gpus={resources.gpus}"] if resources.gpus else []),
    ]


def _comment(key: str, requested_by: str) -> str:
    """Return a job's key and who asked, as much of it as Slurm takes, on one line."""
    words = " ".join(requested_by.replace("\0", " ").split())
    return f"{key} {words}".encode(errors="replace")[:LONGEST_COMMENT].decode(errors="ignore").rstrip()


def _output(path: Path) -> str:
    """Return a log's path as sbatch takes it: it has symbols of its own, and no way to write a backslash."""
    return "/dev/null" if "\\" in str(path) else str(path).replace("%", "%%")


def _read(path: os.PathLike[str]) -> str:
    with contextlib.suppress(OSError), open(path) as file:  # noqa: PTH123
        return file.read().strip()
    return ""
