"""What people and flows see of a submission and its jobs: plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from trackers.states import JobState
from trackers.submission import Submission, SubmissionFolder, Usage
from trackers.work import Work, own_usage


def view(work: Work, submission: Submission) -> dict[str, Any]:
    """Return what people and flows see of a submission."""
    blocked = set(work.blocked(submission)) if submission.open else set()
    return {
        "target": submission.target,
        "pipeline": submission.pipeline.name,
        "name": submission.name,
        "id": submission.id,
        "number": submission.number,
        "status": submission.status,
        "cancelling": submission.cancelling,
        "manager_id": submission.manager_id,
        "opened": submission.opened,
        "ended": submission.ended,
        "jobs": [
            {"stage": stage.name, **job_view(work.folder, submission, job.name, blocked=job.name in blocked)}
            for stage in submission.graph.stages
            for job in stage.jobs
        ],
    }


def job_view(folder: SubmissionFolder, submission: Submission, job: str, *, blocked: bool = False) -> dict[str, Any]:
    """Return what people and flows see of a job: how its newest attempt stands or ended, and where its logs are."""
    attempt = submission.last(job)
    files = folder.attempt_files(submission, job, attempt.number)
    failed = attempt.state.ended and attempt.state is not JobState.COMPLETED
    return {
        "name": job,
        "attempt": attempt.number,
        "state": attempt.state.value,
        "over": blocked or (attempt.state.ended and submission.next_resources(job) is None),
        "blocked": blocked,
        "reason": attempt.reason,
        "earlier": [f"attempt {a.number} {a.state}: {a.reason}" for a in submission.attempts[job][:-1]],
        "exit_code": attempt.exit_code,
        "id": attempt.scheduler_id,
        "resources": asdict(attempt.resources),
        "usage": asdict(attempt.usage),
        "planned": attempt.planned,
        "ended": attempt.ended,
        "output": str(files.output),
        "errors": str(files.errors),
        "progress": files.progress() if attempt.state is JobState.RUNNING else "",
        "tail": files.last_lines() if failed else [],
    }


def unfinished(folder: SubmissionFolder, submission: Submission) -> list[dict[str, Any]]:
    """Return all that is known of each job that did not succeed: the newest attempt, with the logs that are there."""
    found = []
    for job in submission.attempts:
        if not submission.succeeded(job):
            attempt = submission.last(job)
            files = folder.attempt_files(submission, job, attempt.number)
            usage = own_usage(files) if attempt.usage == Usage() else attempt.usage  # it is recorded at the very end
            logs = [str(path) for path in (files.errors, files.output) if path.exists()]
            found.append({**job_view(folder, submission, job), "usage": asdict(usage), "logs": logs})
    return found
