"""What a pipeline works on, a session or a project, with the files that keep its state."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trackers.errors import BadInputError
from trackers.layout import ProjectPaths, SessionPaths
from trackers.lock import SessionLock
from trackers.names import ProcessingPipelines
from trackers.session import load_session
from trackers.site import Site
from trackers.submission import SubmissionFolder
from trackers.tracker import ProcessingTracker

PROJECT_PIPELINES = frozenset({ProcessingPipelines.MANIFEST})
DATASET_PIPELINES = frozenset({ProcessingPipelines.MULTIDAY, ProcessingPipelines.FORGING})
SESSION_PIPELINES = tuple(p for p in ProcessingPipelines if p not in PROJECT_PIPELINES | DATASET_PIPELINES)


@dataclass(frozen=True)
class Target:
    """A session, or a project where `animal` and `session` are empty; names are validated."""

    site: Site
    project: str
    animal: str = ""
    session: str = ""

    @classmethod
    def from_json(cls, site: Site, data: dict[str, Any]) -> Target:
        """Read a target from a request and check that it exists.

        Raises:
            BadInputError: a name is missing or invalid, or there is no such project, animal or session.
        """
        target = cls(
            site, str(data.get("project") or ""), str(data.get("animal") or ""), str(data.get("session") or "")
        )
        if target.animal or target.session:
            load_session(target.paths)
        else:
            target.project_paths.check()
        return target

    @property
    def name(self) -> str:
        """PROJECT or PROJECT/ANIMAL/SESSION."""
        return "/".join(part for part in (self.project, self.animal, self.session) if part)

    @cached_property
    def project_paths(self) -> ProjectPaths:
        """The project's places."""
        return ProjectPaths(self.site.volumes, self.project)

    @cached_property
    def paths(self) -> SessionPaths:
        """The session's places."""
        return SessionPaths(self.site.volumes, self.project, self.animal, self.session)

    @cached_property
    def state_directory(self) -> Path:
        """The folder of trackers, submissions and results."""
        return self.paths.tracking_data if self.session else self.project_paths.directory

    @property
    def _pipelines(self) -> Collection[ProcessingPipelines]:
        return SESSION_PIPELINES if self.session else PROJECT_PIPELINES

    @property
    def lock(self) -> SessionLock:
        """The session's lock.

        Raises:
            BadInputError: a project has none.
        """
        if not self.session:
            raise BadInputError(f"{self.name} is a project, and projects are not locked. Nothing was done.")
        return SessionLock(self.paths.lock)

    def tracker(self, pipeline: ProcessingPipelines) -> ProcessingTracker:
        """Return the tracker of one of the target's pipelines.

        Raises:
            BadInputError: the pipeline does not work on this kind of target.
        """
        if pipeline not in self._pipelines:
            raise BadInputError(f"{pipeline} does not work on {self.name}. Nothing was done.")
        if not self.session:
            return ProcessingTracker(self.project_paths.manifest_tracker)
        return ProcessingTracker(self.paths.tracker(pipeline))

    def submissions(self, pipeline: ProcessingPipelines) -> SubmissionFolder:
        """Return the folder of a pipeline's submissions."""
        self.tracker(pipeline)
        return SubmissionFolder(self.state_directory / "submissions" / pipeline.name.lower())

    def all_submissions(self) -> dict[ProcessingPipelines, SubmissionFolder]:
        """Return the folders of every pipeline that ever ran here."""
        directory = self.state_directory / "submissions"
        return {
            p: SubmissionFolder(directory / p.name.lower())
            for p in self._pipelines
            if (directory / p.name.lower()).is_dir()
        }

    def result(self, pipeline: ProcessingPipelines) -> Path:
        """Return the file that says what the pipeline's last success was made of."""
        return self.state_directory / "results" / f"{pipeline.name}.json"
