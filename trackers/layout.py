"""Where everything of a project, animal and session lies on the server's two volumes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trackers.errors import NotFoundError
from trackers.names import ProcessingPipelines, TrackerFileNames, validate_name, validate_session_name

DATASET_LOCK = "dataset_lock.yaml"
SHARED_ASSET_FOLDERS = frozenset({"suite2p_configurations", "deeplabcut_projects"})  # beside the projects, never one


@dataclass(frozen=True)
class Volumes:
    """The two folders that hold the projects.

    Attributes:
        storage: STORAGE/SHARED, on the slow, large volume.
        working: WORKING/SHARED, on the fast, small volume; the same folder where there is one volume.
    """

    storage: Path
    working: Path

    @cached_property
    def one(self) -> bool:
        """Whether both are the same folder: nothing is then copied by preparation and archiving."""
        return self.storage.resolve() == self.working.resolve()

    def check(self) -> None:
        """Refuse roots that do not exist.

        Raises:
            NotFoundError: one of them is missing or no directory.
        """
        for root in (self.storage, self.working):
            if not root.is_dir():
                raise NotFoundError(
                    f"There is no directory {root} on this server. Nothing was touched. Check the roots."
                )


@dataclass(frozen=True)
class ProjectPaths:
    """A project's places; the name has been validated."""

    volumes: Volumes
    project: str

    def __post_init__(self) -> None:
        validate_name(self.project, "project")

    @property
    def directory(self) -> Path:
        """The project's folder on the storage volume."""
        return self.volumes.storage / self.project

    @property
    def manifest(self) -> Path:
        """The project's manifest, a feather file."""
        return self.directory / f"{self.project}_manifest.feather"

    @property
    def manifest_tracker(self) -> Path:
        """The tracker of the manifest's generation."""
        return self.directory / TrackerFileNames.MANIFEST

    def check(self) -> None:
        """Refuse a project that does not exist.

        Raises:
            NotFoundError: a root or the project's folder is missing.
        """
        self.volumes.check()
        if self.project in SHARED_ASSET_FOLDERS or not self.directory.is_dir():
            raise NotFoundError(f"There is no project {self.project!r} in {self.volumes.storage}. Nothing was touched.")


@dataclass(frozen=True)
class SessionPaths:
    """A session's places; all names have been validated before any of them became a path."""

    volumes: Volumes
    project: str
    animal: str
    session: str

    def __post_init__(self) -> None:
        validate_name(self.project, "project")
        validate_name(self.animal, "animal")
        validate_session_name(self.session)

    def __str__(self) -> str:
        return f"{self.project}/{self.animal}/{self.session}"

    @property
    def storage_directory(self) -> Path:
        """The session's folder on the storage volume."""
        return self.volumes.storage / self.project / self.animal / self.session

    @property
    def working_directory(self) -> Path:
        """The session's folder on the working volume."""
        return self.volumes.working / self.project / self.animal / self.session

    @property
    def raw_data(self) -> Path:
        """What was recorded; never changed."""
        return self.storage_directory / "raw_data"

    @property
    def tracking_data(self) -> Path:
        """Lock, trackers, submissions and results."""
        return self.storage_directory / "tracking_data"

    @property
    def source_data(self) -> Path:
        """The verified copy of raw_data that jobs read; raw_data itself on one volume."""
        return self.raw_data if self.volumes.one else self.working_directory / "source_data"

    @property
    def processed_data(self) -> Path:
        """What jobs write."""
        return self.working_directory / "processed_data"

    @property
    def archived_data(self) -> Path:
        """Where archiving takes processed_data; processed_data itself on one volume."""
        return self.processed_data if self.volumes.one else self.storage_directory / "archived_data"

    @property
    def results(self) -> Path:
        """Where processed_data lies now: what archiving took away is in archived_data."""
        return self.processed_data if self.processed_data.is_dir() else self.archived_data

    @property
    def lock(self) -> Path:
        """The session lock."""
        return self.tracking_data / "session_lock.yaml"

    @property
    def project_paths(self) -> ProjectPaths:
        """The places of the project that the session belongs to."""
        return ProjectPaths(self.volumes, self.project)

    def tracker(self, pipeline: ProcessingPipelines) -> Path:
        """Return the tracker file of one of the session's pipelines."""
        return self.tracking_data / TrackerFileNames[pipeline.name]


@dataclass(frozen=True)
class DatasetPaths:
    """The places of a dataset, or of one animal in it; all names have been validated.

    Attributes:
        root: the account's own folder on the working volume, beside SHARED, which holds its datasets by project.
        animal: empty for the whole dataset.
    """

    root: Path
    project: str
    dataset: str
    animal: str = ""

    def __post_init__(self) -> None:
        validate_name(self.project, "project")
        validate_name(self.dataset, "dataset")
        if self.animal:
            validate_name(self.animal, "animal")

    def __str__(self) -> str:
        return "/".join(part for part in (self.project, self.dataset, self.animal) if part)

    @property
    def directory(self) -> Path:
        """Where its results lie, with lock, tracker, submissions and results beside them."""
        return self.root / self.project / self.dataset / self.animal

    @property
    def lock(self) -> Path:
        """The lock of the dataset, or of the animal in it."""
        return self.directory / DATASET_LOCK

    def tracker(self, pipeline: ProcessingPipelines) -> Path:
        """Return the tracker file of the pipeline that works here."""
        return self.directory / TrackerFileNames[pipeline.name]
