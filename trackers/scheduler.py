"""What a scheduler must be able to do for us: local processes and Slurm are two of a kind."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol

from trackers.site import Site
from trackers.states import Sighting
from trackers.submission import Attempt, Submission, SubmissionFolder, Usage


@dataclass(frozen=True)
class Handed:
    """What became of one attempt when it was to be handed over.

    Attributes:
        scheduler_id: under which the scheduler accepted it; empty where it has not.
        after: the scheduler's ids of the jobs that it waits for.
        waiting: why it has not been handed over yet, for people; it is tried again.
        refused: the scheduler's words, where it will never take the job as it is.
    """

    job: str
    number: int
    scheduler_id: str = ""
    after: tuple[str, ...] = ()
    waiting: str = ""
    refused: str = ""


class Scheduler(Protocol):
    """Runs the jobs of submissions. Only `ask`, `start`, `cancel`, `clear` and `usage` may take long: no lock is held.

    Attributes:
        shortest_gap_seconds: between two questions.
    """

    shortest_gap_seconds: float

    @property
    def grace_seconds(self) -> float:
        """How long an exit record may still come after the scheduler's last word."""

    def ask(self, submissions: Iterable[Submission]) -> None:
        """Bring up to date what `look` knows, of all submissions in one question; one that fails is remembered."""

    def look(
        self, folder: SubmissionFolder, submission: Submission, attempts: Iterable[tuple[str, Attempt]]
    ) -> dict[str, Sighting]:
        """Say what is known of each job's attempt, by job name, from the last question and the jobs' files."""

    def fingerprint(self, submission: Submission) -> Hashable:
        """Return what changes whenever `look` may have news of a submission; None: one has to look."""

    def due(self, folder: SubmissionFolder, submission: Submission) -> bool:
        """Tell whether `start` has something to do."""

    def start(self, folder: SubmissionFolder, submission: Submission) -> list[Handed]:
        """Hand over what has not been, and make the scheduler's jobs wait for each other as the record has it."""

    def cancel(self, folder: SubmissionFolder, submission: Submission) -> bool:
        """End every job of a submission; tell whether none of their processes is left."""

    def clear(self, folder: SubmissionFolder, submission: Submission, jobs: Collection[str]) -> bool:
        """Take jobs away that have not begun and never will; tell whether they can no longer begin."""

    def usage(self, submission: Submission) -> dict[str, Usage]:
        """Return what accounting knows of each job's last attempt, by job name; empty where there is none."""


def scheduler_of(site: Site, name: str = "") -> Scheduler:
    """Return a site's scheduler, or the one of the given name."""
    if (name or site.scheduler) == "slurm":
        from trackers.slurm import SlurmScheduler

        return SlurmScheduler(site)
    from trackers.local import LocalScheduler

    return LocalScheduler(site)
