"""How a submission changes: pure functions from one record to the next."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from trackers.retries import limit, next_resources
from trackers.scheduler import Handed
from trackers.states import ExitRecord, JobState, Sighting, judge
from trackers.submission import Attempt, Submission, Usage, now
from trackers.tracker import FRESH, TrackerState

REFUSED, NOT_SUBMITTED = "Slurm refused it", "it was not submitted"
UNATTENDED = "it was not tried again, for its manager had died"


def judged(
    attempt: Attempt, record: ExitRecord | None, sighting: Sighting, grace_seconds: float, *, cancelling: bool
) -> Attempt:
    """Return an attempt with its state as the facts have it now."""
    seen = f"{'record, ' if record else ''}{sighting.summary}"
    first_seen = attempt.first_seen if seen == attempt.seen else now()  # deadlines begin anew after an outage
    verdict = judge(record, sighting, seconds_since(first_seen), grace_seconds)
    state = verdict.state or attempt.state
    reason = verdict.reason or ("" if verdict.state else attempt.reason)
    if cancelling and state in (JobState.FAILED, JobState.LOST, JobState.CANCELLED):
        state, reason = JobState.CANCELLED, "ended on request"
    return replace(
        attempt,
        state=state,
        scheduler_id=sighting.scheduler_id or attempt.scheduler_id,
        reason=reason,
        exit_code=record.exit_code if record else attempt.exit_code,
        seen=seen,
        first_seen=first_seen,
        ended=(attempt.ended or now()) if state.ended else "",
        never_began=sighting.never_began,
    )


def with_retries(submission: Submission) -> Submission:
    """Return a copy in which every job that is to be tried again has its next attempt planned."""
    for job in submission.graph.jobs():
        if (resources := submission.next_resources(job.name)) is not None:
            submission = submission.with_next_attempt(job.name, resources)
    return submission


def with_handover(submission: Submission, handed: Iterable[Handed]) -> Submission:
    """Return a copy in which stands what the scheduler answered; once it has refused one job, none is handed over."""
    for answer in handed:
        attempt = submission.last(answer.job)
        if attempt.number != answer.number or attempt.state.ended:
            continue
        if answer.refused:
            return _refused(submission, answer)
        if answer.scheduler_id:
            state = JobState.PENDING if attempt.state is JobState.PLANNED else attempt.state
            reason = attempt.reason if attempt.scheduler_id else ""
            attempt = replace(attempt, state=state, scheduler_id=answer.scheduler_id, after=answer.after, reason=reason)
        elif answer.waiting:
            attempt = replace(attempt, reason=answer.waiting)
        submission = submission.with_attempt(answer.job, attempt)
    return submission


def closed(submission: Submission) -> Submission:
    """Decide how a submission ended, none of whose jobs runs."""
    for job in submission.live_jobs():
        attempt = replace(
            submission.last(job.name), state=JobState.CANCELLED, reason="it was never started", ended=now()
        )
        submission = submission.with_attempt(job.name, attempt)
    if all(submission.succeeded(job) for job in submission.attempts):
        return replace(submission, status="succeeded", ended=now())
    for name in submission.attempts:
        last = submission.last(name)
        lost = submission.lost(name)
        if submission.orphaned and next_resources(last.state, lost, last.resources) is not None:
            words = UNATTENDED
        else:
            words = limit(last.state, lost, last.resources)
        if words and words not in last.reason:
            submission = submission.with_attempt(name, replace(last, reason=f"{last.reason}; {words}".lstrip("; ")))
    return replace(submission, status="aborted" if submission.cancelling else "failed", ended=now())


def with_usage(submission: Submission, known: dict[str, Usage], own: dict[str, Usage]) -> Submission:
    """Return a copy that says what the jobs took: as accounting knows it, else as their own records do."""
    for job in submission.attempts:
        last, other = submission.last(job), own.get(job, Usage())
        told = known.get(job, Usage())
        usage = Usage(
            told.node or other.node,
            *(
                first if first is not None else second
                for first, second in (
                    (told.queued_seconds, other.queued_seconds),
                    (told.ran_seconds, other.ran_seconds),
                    (told.cpu_seconds, other.cpu_seconds),
                    (told.memory_gb, other.memory_gb),
                )
            ),
        )
        submission = submission.with_attempt(job, replace(last, usage=usage))
    return submission


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


def _refused(submission: Submission, answer: Handed) -> Submission:
    words = f"{REFUSED}: {answer.refused}"
    failed = replace(submission.last(answer.job), state=JobState.FAILED, reason=words, ended=now())
    submission = submission.with_attempt(answer.job, failed)
    for job in submission.live_jobs():
        last = submission.last(job.name)
        if not last.scheduler_id:
            reason = f"{NOT_SUBMITTED}: Slurm refused {answer.job}"
            last = replace(last, state=JobState.CANCELLED, reason=reason, ended=now())
            submission = submission.with_attempt(job.name, last)
    return submission


def seconds_since(moment: str) -> float:
    """Return how long ago a moment was that `now` gave; 0 for none."""
    if not moment:
        return 0.0
    return max(0.0, time.time() - datetime.fromisoformat(moment).astimezone(UTC).timestamp())
