"""A pipeline's life on the server: opened or continued, looked after, retried, cancelled, finished."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from typing import Any

from trackers.attempts import closed, judged, seconds_since, tracker_state, with_handover, with_retries, with_usage
from trackers.commands import NAME_VARIABLE
from trackers.curation import edited
from trackers.environments import require
from trackers.errors import (
    CuratedError,
    FileSystemError,
    NotYetError,
    SessionLockedError,
    SubmissionError,
    TrackerCorruptError,
    TrackerOwnedError,
)
from trackers.files import atomic_write, make_directory
from trackers.graph import PYTHON, Graph, Job
from trackers.names import ProcessingPipelines
from trackers.processes import ProcessIdentity, this_account
from trackers.publication import stands
from trackers.results import own_version, raw_data_checksum, write_result
from trackers.scheduler import Scheduler, scheduler_of
from trackers.script import exit_record, job_script
from trackers.stale import record_of
from trackers.states import JobState
from trackers.submission import AttemptFiles, Submission, Usage, digest_of, new_submission
from trackers.targets import PROJECT_PIPELINES, Target
from trackers.tracker import TrackerState, reset_command

REPORT_SECONDS = 90.0  # a network file system may show a job's report late
KEPT_PROJECT_SUBMISSIONS = 20  # a project's manifest is made after every run on every session
_COUNTERPART = {
    ProcessingPipelines.PREPARATION: ProcessingPipelines.ARCHIVING,
    ProcessingPipelines.ARCHIVING: ProcessingPipelines.PREPARATION,
}


@dataclass(frozen=True)
class Request:
    """What a manager asks to be run.

    Attributes:
        settings: what makes it the same work or another; enters the digest.
        reprocess: open a new submission even where the last one succeeded.
        discard_curation: also where people have edited the result since it was recorded.
        id: of the request itself; it stays when a request is sent again because its answer was lost.
    """

    graph: Graph
    settings: dict[str, Any]
    manager_id: int
    reprocess: bool = False
    discard_curation: bool = False
    requested_by: str = ""
    flow_run_id: str = ""
    prefect_api: str = ""
    process: ProcessIdentity | None = None
    id: str = ""


class Work:
    """One pipeline on one target.

    Every method takes the submissions' lock for what it reads and changes; whatever may take long (questions to the
    scheduler, handing jobs over, ending them) happens before or after, never under it.
    """

    def __init__(self, target: Target, pipeline: ProcessingPipelines) -> None:
        self.target = target
        self.pipeline = pipeline
        self.folder = target.submissions(pipeline)

    def scheduler(self, submission: Submission) -> Scheduler:
        """Return the scheduler that a submission's jobs were given to, whatever the site uses now."""
        return scheduler_of(self.target.site, submission.scheduler)

    def submit(self, request: Request) -> Submission:
        """Open a submission or continue the one with the same digest, and hand its jobs to the scheduler.

        Raises:
            SubmissionError: another submission of this pipeline is open.
            TrackerOwnedError: the tracker is running under a manager that is not known here.
            EnvironmentMissingError: the jobs need an environment that is not there.
            CuratedError: people have edited the result, and a new run would replace it.
        """
        digest = digest_of(self.target.name, self.pipeline, request.settings)
        require(self.target.site, request.graph.jobs())
        self.ask()
        self._spare_curation(request)
        with self.folder.lock():
            submission = self._carried_out(request)
            if submission is None:
                submission = self._planned(digest, request)
                self.folder.save(submission)  # intent is on disk before the scheduler hears of it
            self.write_tracker(submission)
        return self._start(submission)

    def _spare_curation(self, request: Request) -> None:
        """Refuse to begin a run that would replace what people have edited, or to go on with one that had ended."""
        current = self.folder.current()
        if (current is not None and current.open) or request.discard_curation or self.pipeline in PROJECT_PIPELINES:
            return
        if names := edited(self.target, self.pipeline):
            raise CuratedError(
                f"{self.pipeline} of {self.target.name} would replace files that people have edited since it wrote "
                f"them: {', '.join(names)}. Nothing was submitted. To make them anew all the same: --discard-curation "
                "(in a form, discard_curation)."
            )

    def ask(self) -> None:
        """Bring up to date what the scheduler says of the open submission; may take long."""
        current = self.folder.current()
        if current is not None and current.open and any(a.scheduler_id for a in map(current.last, current.attempts)):
            self.scheduler(current).ask([current])

    def refresh(self, number: int) -> Submission:
        """Bring a submission's record up to date with the facts that are known; starts and asks nothing."""
        with self.folder.lock():
            submission = self.folder.read(number)
            return self._refreshed(submission) if submission.open else submission

    def settle(self, number: int) -> Submission:
        """Refresh, plan the next attempts, and have the scheduler take what it has not, or has dropped."""
        with self.folder.lock():
            submission = self.folder.read(number)
            if not submission.open:
                return submission
            submission = self._refreshed(submission, retry=not submission.cancelling)
        if not submission.cancelling and self.scheduler(submission).due(self.folder, submission):
            submission = self._start(submission)
        return submission

    def running(self, submission: Submission) -> list[str]:
        """Return the jobs that run, or that the scheduler will start; blocked and dropped ones are neither."""
        return [
            job.name
            for job in submission.live_jobs()
            if not self._never_starts(submission, job) and submission.last(job.name).state is not JobState.PLANNED
        ]

    def cancel(self, number: int) -> bool:
        """End every job of the submission; tell whether none of their processes is left.

        Raises:
            SessionLockedError: they run under another account.
            FileSystemError: they were ended, but that could not be written down.
        """
        unwritten = None
        with self.folder.lock():
            submission = self.folder.read(number)
            if not submission.open:
                return True
            if submission.account != this_account() and os.geteuid() != 0 and self.running(self.judged(submission)):
                raise SessionLockedError(
                    f"The jobs of {submission.name} on {self.target.name} run under the account {submission.account}, "
                    f"and {this_account()} cannot end them. Nothing was changed. Ask {submission.account} to."
                )
            if not submission.cancelling:
                submission = replace(submission, cancelling=True)
                try:
                    self.folder.save(submission)  # from now on nothing of it is started
                except FileSystemError as error:  # the more reason to end what fills the volume
                    unwritten = error
        gone = self.scheduler(submission).cancel(self.folder, submission)
        if unwritten is not None:
            raise unwritten
        if gone:
            return True
        # a script that was itself killed writes no end: its job has ended once the deadline for that is over
        now = self.refresh(number)
        return not any(self._may_be_handed_over(now, job.name) for job in now.live_jobs())

    def finish(self, number: int, *, keep_logs: bool, facts: dict[str, Any], orphaned: bool = False) -> Submission:
        """Close a submission none of whose jobs runs: result record, tracker, and the logs of a success.

        Args:
            number: which one.
            keep_logs: also after a success.
            facts: what the manager adds to the result record.
            orphaned: no manager looks after it any more: what it would have tried again is not.

        Raises:
            SubmissionError: a job still runs or waits.
            NotYetError: the scheduler could not be told to forget jobs that will never start.
        """
        submission = replace(self.folder.read(number), orphaned=orphaned)
        usage = self._clear(submission) if submission.open else {}
        with self.folder.lock():
            submission = self.folder.read(number)
            if not submission.open:  # the one who closed it may have died before he could do the rest
                self._after_closing(submission, keep_logs=keep_logs)
                return submission
            submission = self.judged(replace(submission, orphaned=orphaned))
            if running := self.running(submission):
                self.folder.save(submission)
                raise SubmissionError(f"{submission.name} cannot be closed: {', '.join(running)} still run or wait.")
            submission = with_usage(closed(submission), usage, self._own_usage(submission))
            if submission.status == "succeeded":
                self._await_reports(submission)
                write_result(self.target, submission, self.folder, facts)
            self.folder.save(submission)
            self._after_closing(submission, keep_logs=keep_logs)
            if self.pipeline in PROJECT_PIPELINES:
                self.folder.prune(KEPT_PROJECT_SUBMISSIONS)
        return submission

    def blocked(self, submission: Submission) -> list[str]:
        """Return the jobs that wait for one that has ended without success."""
        return [job.name for job in submission.live_jobs() if self._never_starts(submission, job)]

    def _carried_out(self, request: Request) -> Submission | None:
        """Return what became of the same request before, where its answer was lost on the way."""
        newest = self.folder.numbers()[-KEPT_PROJECT_SUBMISSIONS if self.pipeline in PROJECT_PIPELINES else -1 :]
        found = (self.folder.read(number) for number in reversed(newest) if request.id)
        return next((submission for submission in found if submission.request_id == request.id), None)

    def _planned(self, digest: str, request: Request) -> Submission:
        """Open a submission, or continue the one that is there."""
        current = self.folder.current()
        self._check_tracker(current, request.manager_id)
        if self.pipeline in PROJECT_PIPELINES or current is None or not self._continues(current, digest, request):
            return self._opened(current, digest, request)
        return self._continued(self.judged(current), request)

    def _continues(self, current: Submission, digest: str, request: Request) -> bool:
        if current.digest == digest:
            return current.status != "succeeded" and not (request.reprocess and not current.open)
        if current.open and self.running(self.judged(current)):
            raise SubmissionError(
                f"{self.pipeline} of {self.target.name} was started with other settings, and its jobs still run or "
                "wait. Nothing was submitted. "
                f"Wait for them, or end them with: {self.target.command('cancel')}"
            )
        return False

    def _opened(self, current: Submission | None, digest: str, request: Request) -> Submission:
        if current is not None and current.open and self.pipeline not in PROJECT_PIPELINES:
            self.folder.save(closed(replace(self.judged(current), cancelling=True)))
        return new_submission(
            request.graph,
            number=(current.number if current else 0) + 1,
            target=self.target.name,
            pipeline=self.pipeline,
            digest=digest,
            settings=request.settings,
            manager_id=request.manager_id,
            account=this_account(),
            scheduler=self.target.site.scheduler,
            requested_by=request.requested_by,
            flow_run_id=request.flow_run_id,
            prefect_api=request.prefect_api,
            process=request.process,
            request_id=request.id,
            code_version=own_version(),
            raw_data_checksum=raw_data_checksum(self.target),
        )

    def _continued(self, current: Submission, request: Request) -> Submission:
        """Adopt what runs, keep what succeeded, plan the next attempt at what has ended otherwise."""
        submission = replace(
            current,
            status="open",
            ended="",
            reason="",
            cancelling=False,
            orphaned=False,
            requested_by=request.requested_by,
            flow_run_id=request.flow_run_id,
            prefect_api=request.prefect_api,
            process=request.process,
            manager_id=request.manager_id,
            request_id=request.id,
            code_version=own_version(),
            raw_data_checksum=raw_data_checksum(self.target),
        )
        wanted = {job.name: job.resources for job in request.graph.jobs()}
        for job in submission.graph.jobs():
            last = submission.last(job.name)
            if last.state.ended and not submission.succeeded(job.name):
                submission = submission.with_next_attempt(job.name, wanted.get(job.name, last.resources))
        return submission

    def _start(self, submission: Submission) -> Submission:
        """Write the scripts of planned attempts, hand them over, and record what the scheduler answered."""
        make_directory(self.target.site.announcements)
        for job in submission.live_jobs():
            self._write_script(submission, job)
        scheduler = self.scheduler(submission)
        handed = scheduler.start(self.folder, submission)
        if not handed:
            return submission
        with self.folder.lock():
            before = self.folder.read(submission.number)
            submission = with_handover(before, handed) if before.open else before
            if submission != before:
                self.folder.save(submission)
                self.write_tracker(submission)
        if any(answer.refused for answer in handed):
            scheduler.cancel(self.folder, submission)
        return submission

    def _write_script(self, submission: Submission, job: Job) -> None:
        attempt = submission.last(job.name)
        files = self.folder.attempt_files(submission, job.name, attempt.number)
        if files.script.exists():
            return
        make_directory(files.directory)
        variables = {**job.variables, **({NAME_VARIABLE: self.target.site.name} if self.target.site.name else {})}
        script = job_script(
            replace(job, variables=variables),
            submission.key(job.name, attempt.number),
            files,
            self.target.site.announcements,
            self.target.site.command(job, submission.manager_id),
            environment=self.target.site.environment(job.environment),
            earlier=submission.before(job.name),
        )
        atomic_write(files.script, script.encode(errors="surrogateescape"))

    def _refreshed(self, submission: Submission, *, retry: bool = False) -> Submission:
        """Judge, plan the next attempts where asked to, and save what has changed; the lock is held."""
        judged_now = self.judged(submission)
        if retry:
            judged_now = with_retries(judged_now)
        if judged_now != submission:
            self.folder.save(judged_now)
            self.write_tracker(judged_now)
        return judged_now

    def judged(self, submission: Submission) -> Submission:
        """Return the submission with every job's state as the facts have it now."""
        scheduler = self.scheduler(submission)
        attempts = [(job.name, submission.last(job.name)) for job in submission.live_jobs()]
        sightings = scheduler.look(self.folder, submission, attempts)
        for name, attempt in attempts:
            files = self.folder.attempt_files(submission, name, attempt.number)
            record = exit_record(files, sightings[name])
            grace = scheduler.grace_seconds if record is None and sightings[name].kind == "seen" else 0.0
            changed = judged(attempt, record, sightings[name], grace, cancelling=submission.cancelling)
            if changed.state is JobState.LOST:
                files.revoke()  # should it turn up after all, it must not begin
            submission = submission.with_attempt(name, changed)
        return submission

    def _clear(self, submission: Submission) -> dict[str, Usage]:
        """Have the scheduler forget the jobs that will never start; return what it knows of the others.

        Raises:
            NotYetError: it could not be told.
        """
        scheduler = self.scheduler(submission)
        never = [job for job in self.blocked(submission) if self._may_be_handed_over(submission, job)]
        if never and not submission.cancelling and not scheduler.clear(self.folder, submission, never):
            raise NotYetError(
                f"{submission.name} cannot be closed yet: {', '.join(never)} will never start, but could not be taken "
                "away from the scheduler. Nothing was changed. Ask again when it answers."
            )
        return scheduler.usage(submission)

    def _await_reports(self, submission: Submission) -> None:
        """See that the reports of our programs, which come before their exit records, can be read.

        Raises:
            NotYetError: a file system that shows another node's files late does not show them yet.
        """
        for job in submission.graph.jobs():
            last = submission.last(job.name)
            files = self.folder.attempt_files(submission, job.name, last.number)
            unseen = PYTHON in job.command and not any(files.directory.glob("exit.*"))
            if unseen and seconds_since(last.ended) < REPORT_SECONDS:
                raise NotYetError(
                    f"{submission.name} cannot be closed yet: {job.name} has succeeded, and its report in "
                    f"{files.directory} is not seen here yet. Nothing was changed; it is looked for again."
                )

    def _may_be_handed_over(self, submission: Submission, job: str) -> bool:
        """Whether the scheduler has a job, or may have it although its answer was lost."""
        attempt = submission.last(job)
        files = self.folder.attempt_files(submission, job, attempt.number)
        return attempt.state is not JobState.PLANNED or files.handed_over.exists()

    def _own_usage(self, submission: Submission) -> dict[str, Usage]:
        """Return what the jobs' own records say that they took."""
        return {
            job: own_usage(self.folder.attempt_files(submission, job, submission.last(job).number))
            for job in submission.attempts
        }

    def _never_starts(self, submission: Submission, job: Job) -> bool:
        """Whether a job has not begun, and will not: it is being cancelled, or a job before it ended otherwise."""
        if submission.last(job.name).state not in (JobState.PLANNED, JobState.PENDING):
            return False
        return submission.cancelling or submission.waits_for_a_failure(job.name)

    def _check_tracker(self, current: Submission | None, manager_id: int) -> None:
        if self.pipeline in PROJECT_PIPELINES:
            return  # the manifest's tracker excludes nobody
        tracker = self.target.tracker(self.pipeline)
        state = tracker.read()
        known = {manager_id, *([current.manager_id] if current else [])}
        if state.running and state.manager_id not in known:
            raise TrackerOwnedError(
                f"{tracker.file_path} is running under manager {state.manager_id}, which holds no lock and no record "
                f"here. Nothing was submitted. If that manager is gone for good: {reset_command(tracker.file_path)}"
            )

    def write_tracker(self, submission: Submission) -> None:
        """Write the tracker as the record has it; it is for everyone to read, and never what we decide by."""
        if self.pipeline in PROJECT_PIPELINES:
            return  # the manifest's program keeps its own, under the feather's lock
        tracker = self.target.tracker(self.pipeline)
        if submission.open and any(job.drives_tracker for job in submission.live_jobs()):
            with contextlib.suppress(TrackerCorruptError):  # killed while it wrote: it writes in place
                if tracker.read().running:
                    return  # what a program of 5.1.0 makes of it is corrected at its end
        tracker.set_state(self._tracker_state(submission))

    def _tracker_state(self, submission: Submission) -> TrackerState:
        """Return what the tracker is to say; a run that was ended, and left a result alone, takes no success away."""
        record = record_of(self.target, self.pipeline) if submission.status == "aborted" else None
        if record is not None and stands(self.target, self.pipeline, record):
            return TrackerState(complete=True, completed_jobs=1)
        return tracker_state(submission)

    def _after_closing(self, submission: Submission, *, keep_logs: bool) -> None:
        self.write_tracker(submission)
        if submission.status != "succeeded":
            return
        if counterpart := _COUNTERPART.get(self.pipeline):
            self.target.tracker(counterpart).abort()
        if not keep_logs:
            for job, attempts in submission.attempts.items():
                for attempt in attempts:
                    files = self.folder.attempt_files(submission, job, attempt.number)
                    files.output.unlink(missing_ok=True)
                    files.errors.unlink(missing_ok=True)


def own_usage(files: AttemptFiles) -> Usage:
    """Return what the own records of an attempt say that it took."""
    record, started = exit_record(files, None), files.started((files.owner() or (0, ""))[0])
    return Usage(
        node=started[0] if started else "",
        ran_seconds=record.seconds if record else None,
        cpu_seconds=record.cpu_seconds if record else None,
    )
