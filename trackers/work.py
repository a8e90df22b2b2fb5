"""A pipeline's life on the server: opened or continued, looked after, retried, cancelled, finished."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from trackers.errors import SubmissionError, TrackerOwnedError
from trackers.files import atomic_write, make_directory
from trackers.graph import Graph, Job, Resources
from trackers.local import LocalScheduler
from trackers.names import ProcessingPipelines
from trackers.processes import this_account
from trackers.results import write_result
from trackers.script import job_script, parse_exit_record
from trackers.states import ExitRecord, JobState, Verdict, judge
from trackers.submission import Attempt, Submission, digest_of, new_submission, now
from trackers.targets import PROJECT_PIPELINES, Target
from trackers.tracker import FRESH, TrackerState

LOG_TAIL_LINES = 20
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
    """

    graph: Graph
    settings: dict[str, Any]
    manager_id: int
    reprocess: bool = False
    requested_by: str = ""
    flow_run_id: str = ""


class Work:
    """One pipeline on one target. Every method takes the submissions' lock for what it reads and changes."""

    def __init__(self, target: Target, pipeline: ProcessingPipelines) -> None:
        self.target = target
        self.pipeline = pipeline
        self.folder = target.submissions(pipeline)
        self.scheduler = LocalScheduler(target.site)

    def submit(self, request: Request) -> Submission:
        """Open a submission or continue the one with the same digest, and hand its jobs to the scheduler.

        Raises:
            SubmissionError: another submission of this pipeline is open.
            TrackerOwnedError: the tracker is running under a manager that is not known here.
        """
        digest = digest_of(self.target.name, self.pipeline, request.settings)
        with self.folder.lock():
            current = self.folder.current()
            self._check_tracker(current, request.manager_id)
            if self.pipeline in PROJECT_PIPELINES or current is None or not self._continues(current, digest, request):
                submission = self._opened(current, digest, request)
            else:
                submission = self._continued(self._judged(current), request)
            self.folder.save(submission)  # intent is on disk before the scheduler hears of it
            self.write_tracker(submission)
        self._start(submission)
        return submission

    def refresh(self, number: int) -> Submission:
        """Bring a submission's record up to date with the facts; starts nothing."""
        with self.folder.lock():
            submission = self.folder.read(number)
            if not submission.open:
                return submission
            judged = self._judged(submission)
            if judged != submission:
                self.folder.save(judged)
                self.write_tracker(judged)
        return judged

    def settle(self, number: int) -> Submission:
        """Refresh, and have the scheduler start again what it has dropped."""
        submission = self.refresh(number)
        if (
            submission.open
            and not submission.cancelling
            and any(self._dropped(submission, j) for j in submission.live_jobs())
        ):
            self.scheduler.start(self.folder, submission)
        return submission

    def running(self, submission: Submission) -> list[str]:
        """Return the jobs that run, or that the scheduler will start; blocked and dropped ones are neither."""
        return [
            job.name
            for job in submission.live_jobs()
            if not self._never_starts(submission, job) and submission.last(job.name).state is not JobState.PLANNED
        ]

    def retry(self, number: int, job: str, attempt: int, resources: Resources) -> Submission:
        """Plan the attempt after `attempt` at a job, if that one has ended without success, and hand it over."""
        with self.folder.lock():
            submission = self.folder.read(number)
            last = submission.last(job)
            if not submission.open or submission.cancelling or not last.state.ended:
                return submission
            if submission.succeeded(job) or last.number != attempt:  # a request that came twice retries once
                return submission
            submission = submission.with_next_attempt(job, resources)
            self.folder.save(submission)
        self._start(submission)
        return submission

    def cancel(self, number: int) -> bool:
        """End every job of the submission; tell whether none of their processes is left."""
        with self.folder.lock():
            submission = self.folder.read(number)
            if not submission.open:
                return True
            if not submission.cancelling:
                submission = replace(submission, cancelling=True)
                self.folder.save(submission)  # from now on nothing of it is started
        return self.scheduler.cancel(self.folder, submission)

    def finish(self, number: int, *, keep_logs: bool, facts: dict[str, Any]) -> Submission:
        """Close a submission none of whose jobs runs: result record, tracker, and the logs of a success.

        Raises:
            SubmissionError: a job still runs or waits.
        """
        with self.folder.lock():
            submission = self._judged(self.folder.read(number))
            if not submission.open:
                self.write_tracker(submission)  # an earlier manager may have died between the two
                return submission
            if running := self.running(submission):
                self.folder.save(submission)
                raise SubmissionError(f"{submission.name} cannot be closed: {', '.join(running)} still run or wait.")
            submission = _closed(submission)
            if submission.status == "succeeded":
                write_result(self.target, submission, self.folder, facts)
            self.folder.save(submission)
            self.write_tracker(submission)
            if submission.status == "succeeded":
                self._after_success(submission, keep_logs=keep_logs)
        return submission

    def blocked(self, submission: Submission) -> list[str]:
        """Return the jobs that wait for one that has ended without success."""
        return [job.name for job in submission.live_jobs() if self._never_starts(submission, job)]

    def _continues(self, current: Submission, digest: str, request: Request) -> bool:
        if current.digest == digest:
            return current.status != "succeeded" and not (request.reprocess and not current.open)
        if current.open and self._judged(current).live_jobs():
            raise SubmissionError(
                f"{self.pipeline} of {self.target.name} was started with other settings, and its jobs still run or "
                "wait. Nothing was submitted. Wait for them, or end them with: sessionflow cancel"
            )
        return False

    def _opened(self, current: Submission | None, digest: str, request: Request) -> Submission:
        if current is not None and current.open and self.pipeline not in PROJECT_PIPELINES:
            self.folder.save(_closed(replace(self._judged(current), cancelling=True)))
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
        )

    def _continued(self, current: Submission, request: Request) -> Submission:
        """Adopt what runs, keep what succeeded, plan the next attempt at what has ended otherwise."""
        submission = replace(
            current,
            status="open",
            ended="",
            reason="",
            cancelling=False,
            requested_by=request.requested_by,
            flow_run_id=request.flow_run_id,
            manager_id=request.manager_id,
        )
        wanted = {job.name: job.resources for job in request.graph.jobs()}
        for job in submission.graph.jobs():
            last = submission.last(job.name)
            if last.state.ended and not submission.succeeded(job.name):
                submission = submission.with_next_attempt(job.name, wanted.get(job.name, last.resources))
        return submission

    def _start(self, submission: Submission) -> None:
        """Write the scripts of planned attempts and hand them over."""
        make_directory(self.target.site.announcements)
        for job in submission.live_jobs():
            attempt = submission.last(job.name)
            files = self.folder.attempt_files(submission, job.name, attempt.number)
            if not files.script.exists():
                make_directory(files.directory)
                script = job_script(
                    job,
                    submission.key(job.name, attempt.number),
                    files,
                    self.target.site.announcements,
                    self.target.site.command(job, submission.manager_id),
                )
                atomic_write(files.script, script.encode(errors="surrogateescape"))
        self.scheduler.start(self.folder, submission)

    def _judged(self, submission: Submission) -> Submission:
        """Return the submission with every job's state as the facts have it now."""
        attempts = [(job.name, submission.last(job.name)) for job in submission.live_jobs()]
        sightings = self.scheduler.look(self.folder, submission, attempts)
        for name, attempt in attempts:
            record = self._exit_record(submission, name, attempt)
            verdict = judge(record, sightings[name], _seconds_since(attempt.first_seen), self.scheduler.grace_seconds)
            submission = submission.with_attempt(name, _updated(attempt, verdict, record, submission))
        return submission

    def _exit_record(self, submission: Submission, job: str, attempt: Attempt) -> ExitRecord | None:
        try:
            return parse_exit_record(
                self.folder.attempt_files(submission, job, attempt.number).exit_record().read_text()
            )
        except (OSError, UnicodeDecodeError):
            return None

    def _dropped(self, submission: Submission, job: Job) -> bool:
        return submission.last(job.name).state is JobState.PLANNED and submission.ready(job)

    def _never_starts(self, submission: Submission, job: Job) -> bool:
        """Whether a job has not begun, and will not: it is being cancelled, or a job before it ended otherwise."""
        if submission.last(job.name).state not in (JobState.PLANNED, JobState.PENDING):
            return False
        stage = submission.graph.stage_of(job.name)
        earlier = [j.name for s in submission.graph.stages[:stage] for j in s.jobs]
        failed = any(submission.last(n).state.ended and not submission.succeeded(n) for n in earlier)
        return submission.cancelling or (failed and not submission.ready(job))

    def _check_tracker(self, current: Submission | None, manager_id: int) -> None:
        if self.pipeline in PROJECT_PIPELINES:
            return  # the manifest's tracker excludes nobody
        tracker = self.target.tracker(self.pipeline)
        state = tracker.read()
        known = {manager_id, *([current.manager_id] if current else [])}
        if state.running and state.manager_id not in known:
            raise TrackerOwnedError(
                f"{tracker.file_path} is running under manager {state.manager_id}, which holds no lock and no record "
                "here. Nothing was submitted. If that manager is gone for good: sessionflow tracker reset "
                f"{self.target.name} {self.pipeline.name.lower()}"
            )

    def write_tracker(self, submission: Submission) -> None:
        """Write the tracker as the record has it; it is for everyone to read, and never what we decide by."""
        if self.pipeline not in PROJECT_PIPELINES:  # the manifest's program keeps its own, under the feather's lock
            self.target.tracker(self.pipeline).set_state(tracker_state(submission))

    def _after_success(self, submission: Submission, *, keep_logs: bool) -> None:
        if counterpart := _COUNTERPART.get(self.pipeline):
            self.target.tracker(counterpart).abort()
        if not keep_logs:
            for job, attempts in submission.attempts.items():
                for attempt in attempts:
                    files = self.folder.attempt_files(submission, job, attempt.number)
                    files.output.unlink(missing_ok=True)
                    files.errors.unlink(missing_ok=True)


def tracker_state(submission: Submission) -> TrackerState:
    """Compute the tracker from the record: it counts distinct succeeded jobs."""
    count = len(submission.attempts)
    done = sum(submission.succeeded(job) for job in submission.attempts)
    if submission.status == "open":
        return TrackerState(running=True, manager_id=submission.manager_id, job_count=count, completed_jobs=done)
    if submission.status == "succeeded":
        return TrackerState(complete=True, job_count=count, completed_jobs=count)
    if submission.status == "failed":
        return TrackerState(encountered_error=True, job_count=count, completed_jobs=done)
    return FRESH


def _closed(submission: Submission) -> Submission:
    """Decide how a submission ended, none of whose jobs runs."""
    for job in submission.live_jobs():
        attempt = replace(
            submission.last(job.name), state=JobState.CANCELLED, reason="it was never started", ended=now()
        )
        submission = submission.with_attempt(job.name, attempt)
    if all(submission.succeeded(job) for job in submission.attempts):
        return replace(submission, status="succeeded", ended=now())
    return replace(submission, status="aborted" if submission.cancelling else "failed", ended=now())


def _updated(attempt: Attempt, verdict: Verdict, record: ExitRecord | None, submission: Submission) -> Attempt:
    state = verdict.state or attempt.state
    reason = verdict.reason or ("" if verdict.state else attempt.reason)
    if submission.cancelling and state in (JobState.FAILED, JobState.LOST):
        state, reason = JobState.CANCELLED, "ended on request"
    if (state, reason) == (attempt.state, attempt.reason) and attempt.first_seen:
        return attempt
    return replace(
        attempt,
        state=state,
        reason=reason,
        exit_code=record.exit_code if record else attempt.exit_code,
        first_seen=now(),
        ended=now() if state.ended else "",
    )


def _seconds_since(moment: str) -> float:
    if not moment:
        return 0.0
    return max(0.0, time.time() - datetime.fromisoformat(moment).astimezone(UTC).timestamp())
