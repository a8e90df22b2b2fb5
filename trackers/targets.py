"""What a pipeline works on, a session, a dataset or a project, with the files that keep its state."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from trackers.commands import on_dataset, on_session
from trackers.errors import BadInputError, NotFoundError
from trackers.layout import DatasetPaths, ProjectPaths, SessionPaths
from trackers.lock import Holder, SessionLock
from trackers.names import ProcessingPipelines
from trackers.session import load_session
from trackers.site import Site
from trackers.submission import SubmissionFolder
from trackers.tracker import ProcessingTracker

PROJECT_PIPELINES = frozenset({ProcessingPipelines.MANIFEST})
DATASET_PIPELINES = (ProcessingPipelines.FORGING,)
ANIMAL_PIPELINES = (ProcessingPipelines.MULTIDAY,)  # of one animal in a dataset
SESSION_PIPELINES = tuple(
    p for p in ProcessingPipelines if p not in {*PROJECT_PIPELINES, *DATASET_PIPELINES, *ANIMAL_PIPELINES}
)


@dataclass(frozen=True)
class Target:
    """A session, a dataset or one animal in it, or a project where only that is named; names are validated."""

    site: Site
    project: str
    animal: str = ""
    session: str = ""
    dataset: str = ""

    @classmethod
    def from_json(cls, site: Site, data: dict[str, Any]) -> Target:
        """Read a target from a request and check that it exists; a dataset may be about to be made.

        Raises:
            BadInputError: a name is missing or invalid, or there is no such project, animal or session.
        """
        target = cls(site, *(str(data.get(key) or "") for key in ("project", "animal", "session", "dataset")))
        if target.dataset:
            if target.session:
                raise BadInputError(f"{target.name} is both a session and a dataset. Nothing was done.")
            target.project_paths.check()
            _ = target.dataset_paths
        elif target.animal or target.session:
            load_session(target.paths)
        else:
            target.project_paths.check()
        return target

    @property
    def name(self) -> str:
        """PROJECT, PROJECT/ANIMAL/SESSION, PROJECT/DATASET or PROJECT/DATASET/ANIMAL."""
        return "/".join(part for part in (self.project, self.dataset, self.animal, self.session) if part)

    @cached_property
    def project_paths(self) -> ProjectPaths:
        """The project's places."""
        return ProjectPaths(self.site.volumes, self.project)

    @cached_property
    def paths(self) -> SessionPaths:
        """The session's places."""
        return SessionPaths(self.site.volumes, self.project, self.animal, self.session)

    @cached_property
    def dataset_paths(self) -> DatasetPaths:
        """The places of the dataset, or of the animal in it."""
        return DatasetPaths(self.site.datasets, self.project, self.dataset, self.animal)

    @cached_property
    def state_directory(self) -> Path:
        """The folder of trackers, submissions and results."""
        if self.dataset:
            return self.dataset_paths.directory
        return self.paths.tracking_data if self.session else self.project_paths.directory

    @property
    def pipelines(self) -> Collection[ProcessingPipelines]:
        """The pipelines that work on this kind of target."""
        if self.dataset:
            return ANIMAL_PIPELINES if self.animal else DATASET_PIPELINES
        return SESSION_PIPELINES if self.session else PROJECT_PIPELINES

    @property
    def lockable(self) -> bool:
        """Whether it has a lock: a project has none."""
        return bool(self.session or self.dataset)

    @property
    def lock(self) -> SessionLock:
        """The lock of the session or dataset.

        Raises:
            BadInputError: a project has none.
        """
        if not self.lockable:
            raise BadInputError(f"{self.name} is a project, and projects are not locked. Nothing was done.")
        if self.dataset:
            return SessionLock(self.dataset_paths.lock, self.command("lock", "release"))
        return SessionLock(self.paths.lock)

    def command(self, *words: str) -> str:
        """Return a `sessionflow` command about the session or dataset, e.g. `cancel`, for people to paste."""
        if self.dataset:
            return on_dataset(self.site.volumes, self.dataset_paths, *words)
        return on_session(self.paths.storage_directory, *words)

    def held_for(self, holder: Holder | None) -> Target | None:
        """Return the dataset for which somebody holds this session; None where it is held for its own sake, or free."""
        if holder is None or not holder.datasets:
            return None
        project, dataset, animal = (*holder.target.split("/"), "")[:3]
        return Target(replace(self.site, datasets=Path(holder.datasets)), project, animal, dataset=dataset)

    def check(self) -> None:
        """Refuse a dataset that has not been made; whatever else a request names has been looked for already.

        Raises:
            NotFoundError: there is no folder of it.
        """
        if self.dataset and not self.dataset_paths.directory.is_dir():
            raise NotFoundError(f"There is no dataset {self.name} in {self.site.datasets}. Nothing was touched.")

    def tracker(self, pipeline: ProcessingPipelines) -> ProcessingTracker:
        """Return the tracker of one of the target's pipelines.

        Raises:
            BadInputError: the pipeline does not work on this kind of target.
        """
        if pipeline not in self.pipelines:
            raise BadInputError(f"{pipeline} does not work on {self.name}. Nothing was done.")
        if self.dataset:
            return ProcessingTracker(self.dataset_paths.tracker(pipeline))
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
            for p in self.pipelines
            if (directory / p.name.lower()).is_dir()
        }

    def result(self, pipeline: ProcessingPipelines) -> Path:
        """Return the file that says what the pipeline's last success was made of."""
        return self.state_directory / "results" / f"{pipeline.name}.json"
