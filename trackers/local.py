"""The scheduler for a computer without one: local processes, with the same records and promises as on a cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Iterable

from trackers.files import create_like_directory
from trackers.kill import end_processes
from trackers.scheduler import Handed
from trackers.script import TERM_GRACE_SECONDS
from trackers.shares import is_held, require_locks
from trackers.site import Site
from trackers.states import JobState, Sighting
from trackers.submission import Attempt, Submission, SubmissionFolder, Usage

SUPERVISOR_LOCK = "supervisor.lock"


class LocalScheduler:
    """Runs jobs as processes of a detached supervisor; everything it knows it reads from the jobs' own files."""

    shortest_gap_seconds = 0.0  # a look into files is no question
    grace_seconds = 0.0  # when a job's life lock is free, no process of it is left that could still write a record

    def __init__(self, site: Site) -> None:
        self._site = site

    def ask(self, submissions: Iterable[Submission]) -> None:
        """Do nothing: all that is known stands in files."""

    def fingerprint(self, submission: Submission) -> None:
        """Return None: only a look tells whether there is news."""

    def due(self, folder: SubmissionFolder, submission: Submission) -> bool:
        """Tell whether a job could run that no supervisor has in its hands."""
        jobs = submission.live_jobs()
        return any(submission.last(j.name).state is JobState.PLANNED and submission.ready(j) for j in jobs)

    def start(self, folder: SubmissionFolder, submission: Submission) -> list[Handed]:
        """Make sure that a supervisor works on the submission; one that is there already finds what is new."""
        directory = folder.submission_directory(submission.number)
        if is_held(directory / SUPERVISOR_LOCK):
            return []
        require_locks(self._site.state_directory / "cores")
        create_like_directory(directory / "supervisor.log")  # the next supervisor may be another account's
        with (directory / "supervisor.log").open("ab") as log:
            subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "trackers.supervisor"),
                    *(str(folder.directory), str(submission.number), str(self._site.state_directory / "cores")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        return []

    def look(
        self, folder: SubmissionFolder, submission: Submission, attempts: Iterable[tuple[str, Attempt]]
    ) -> dict[str, Sighting]:
        """Say what is known of each job's attempt, by job name."""
        supervised = is_held(folder.submission_directory(submission.number) / SUPERVISOR_LOCK)
        return {job: self._look(folder, submission, job, attempt, supervised) for job, attempt in attempts}

    def cancel(self, folder: SubmissionFolder, submission: Submission) -> bool:
        """End every process of the submission's jobs; tell whether none is left."""
        keys = [submission.key(job, a.number) for job, attempts in submission.attempts.items() for a in attempts]
        return end_processes(keys, TERM_GRACE_SECONDS + 1)

    def clear(self, folder: SubmissionFolder, submission: Submission, jobs: Collection[str]) -> bool:
        """Return True: nobody starts a job whose turn has not come."""
        return True

    def usage(self, submission: Submission) -> dict[str, Usage]:
        """Return nothing: there is no accounting, and the jobs keep records of their own."""
        return {}

    def _look(
        self, folder: SubmissionFolder, submission: Submission, job: str, attempt: Attempt, supervised: bool
    ) -> Sighting:
        files = folder.attempt_files(submission, job, attempt.number)
        if is_held(files.life):  # asked first: a record that is written before the lock is free is seen below
            return Sighting("seen", JobState.RUNNING)
        if not files.begun.exists():
            return Sighting("seen", JobState.PENDING if supervised else JobState.PLANNED)
        if files.timed_out.exists():
            return Sighting("seen", JobState.TIMEOUT, f"it ran longer than its {attempt.resources.minutes} min")
        if files.exit_record().exists():
            return Sighting("seen", JobState.COMPLETED)  # the exit record says how
        return Sighting("seen", JobState.FAILED, "its processes ended without a word: killed, or the computer stopped")
