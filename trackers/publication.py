"""Results that are made beside the one that is there: a new one takes its place once it is whole, the old one is kept.

A result is made in `next/`. It takes its place in steps of which each is one rename, or is told by the folder that it
leaves, so that whoever finds an interrupted one can finish it: `next/` becomes `.publishing/`; what stands there goes
to `.leaving/`, which becomes `.left/`; what `.publishing/` holds moves in; `.left/` becomes `previous/`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trackers.errors import BadInputError, FileSystemError, TrackerCorruptError
from trackers.files import locked, make_directory
from trackers.names import ProcessingPipelines
from trackers.submission import Submission
from trackers.targets import Target

NEXT, PREVIOUS = "next", "previous"
TRIES = "tries"  # beside suite2p's planes: a folder for each try of other settings, with planes of its own
PUBLISH = "publish"  # the job that puts a result in place, the last one of its submission
_PUBLISHING, _LEAVING, _LEFT = ".publishing", ".leaving", ".left"
_OF_SESSIONS = {  # the folder below processed_data, and what of it is the pipeline's result
    ProcessingPipelines.SUITE2P: ("mesoscope_data", ("plane[0-9]*", "combined", "db.npy", "settings.npy")),
    ProcessingPipelines.VIDEO: (
        "camera_data",
        ("*_camera_motion.feather", "*_camera_pose.feather", "*_camera_video.json"),
    ),
}
_A_SESSION = "[0-9][0-9][0-9][0-9]-??-??-??-??-??-??????"
_OF_ANIMALS = ("cells.feather", "registration.npz", _A_SESSION)


@dataclass(frozen=True)
class Publication:
    """A folder in which results take each other's place.

    Attributes:
        directory: it may hold other files as well, which stay as they are.
        patterns: of the names of what is the result.
    """

    directory: Path
    patterns: tuple[str, ...]

    @property
    def next(self) -> Path:
        """Where a new result is made."""
        return self.directory / NEXT

    @property
    def previous(self) -> Path:
        """The result before the one that is in place."""
        return self.directory / PREVIOUS

    def publish(self) -> bool:
        """Put what `next/` holds in place; tell whether there was anything, which is no more where it is in place."""
        make_directory(self.directory)
        with locked(self.directory / ".publication"):
            self._finish()
            if not self.next.is_dir():
                return False
            self.next.rename(self.directory / _PUBLISHING)
            self._finish()
            return True

    def finish(self) -> None:
        """Finish what was interrupted while a result took its place; several jobs may do so at once."""
        if any((self.directory / name).is_dir() for name in (_PUBLISHING, _LEAVING, _LEFT)):
            with locked(self.directory / ".publication"):
                self._finish()

    def fresh(self) -> Path:
        """Return the empty folder in which a new result is made; what an earlier run did not finish is gone."""
        self.finish()
        if self.next.is_dir():
            shutil.rmtree(self.next)
        return self.next

    def discard_previous(self) -> int | None:
        """Remove the previous result; return how many bytes that frees, None where there is none."""
        if not self.previous.is_dir():
            return None
        with locked(self.directory / ".publication"):
            freed = sum(path.stat().st_size for path in self.previous.rglob("*") if path.is_file())
            try:
                shutil.rmtree(self.previous)
            except OSError as error:
                raise FileSystemError(
                    f"{error.filename} could not be removed: {error.strerror}. The result in place was not touched; of "
                    f"{self.previous}, parts may be gone. Remove the rest by another account."
                ) from error
        return freed

    def _finish(self) -> None:
        publishing, leaving, left = (self.directory / name for name in (_PUBLISHING, _LEAVING, _LEFT))
        if publishing.is_dir():
            if not left.is_dir():
                make_directory(leaving)
                for path in self._result():
                    path.rename(leaving / path.name)
                leaving.rename(left)
            for path in list(publishing.iterdir()):
                path.rename(self.directory / path.name)
            publishing.rmdir()
        if not left.is_dir():
            return
        if any(left.iterdir()):
            if self.previous.is_dir():
                shutil.rmtree(self.previous)  # its successor's successor is in place
            left.rename(self.previous)
        else:
            left.rmdir()  # the first result of all

    def _result(self) -> Iterator[Path]:
        return (path for pattern in self.patterns for path in list(self.directory.glob(pattern)))


def of_session(results: Path, pipeline: ProcessingPipelines) -> Publication:
    """Return where the results of one of a session's pipelines lie, in its processed_data or archived_data.

    Raises:
        KeyError: it makes its results in their place.
    """
    folder, patterns = _OF_SESSIONS[pipeline]
    return Publication(results / folder, patterns)


def of_animal(directory: Path) -> Publication:
    """Return where the multi-day results of an animal in a dataset lie: in its folder, beside its state."""
    return Publication(directory, _OF_ANIMALS)


def publications(target: Target) -> dict[ProcessingPipelines, Publication]:
    """Return where those pipelines of a session, or of an animal in a dataset, have their results that publish them."""
    if target.dataset:
        return {ProcessingPipelines.MULTIDAY: of_animal(target.dataset_paths.directory)} if target.animal else {}
    if not target.session:
        return {}
    paths = target.paths
    results = paths.results
    return {pipeline: of_session(results, pipeline) for pipeline in _OF_SESSIONS}


def discard_previous(targets: Iterable[Target], pipeline: ProcessingPipelines | None) -> list[dict[str, Any]]:
    """Remove the results that were kept when others took their place; say of each which, where, and its bytes.

    Args:
        targets: sessions, or animals in a dataset.
        pipeline: of this one only; None: of all.

    Raises:
        BadInputError: the pipeline keeps none; nothing was removed.
        FileSystemError: a file could not be removed.
    """
    if pipeline not in (None, ProcessingPipelines.MULTIDAY, *_OF_SESSIONS):
        known = ", ".join(p.name.lower() for p in (*_OF_SESSIONS, ProcessingPipelines.MULTIDAY))
        raise BadInputError(f"{pipeline} keeps no previous results; {known} do. Nothing was removed.")
    removed = []
    for target in targets:
        for which, publication in publications(target).items():
            if pipeline in (None, which) and (freed := publication.discard_previous()) is not None:
                path = str(publication.previous)
                removed.append({"target": target.name, "pipeline": which.name, "path": path, "bytes": freed})
    return removed


def stands(target: Target, pipeline: ProcessingPipelines, record: dict[str, Any]) -> bool:
    """Whether the result that a record is about is in place, whatever was run since.

    It is where every later run made its own result beside it, and has not begun to put that in place.
    """
    folder = target.submissions(pipeline)
    for number in reversed(folder.numbers()):
        try:
            submission = folder.read(number)
        except TrackerCorruptError:
            return False
        if submission.name == record.get("submission"):
            return True
        if not _beside(submission) or any(
            folder.attempt_files(submission, PUBLISH, attempt.number).owner()
            for attempt in submission.attempts[PUBLISH]
        ):
            return False
    return True


def _beside(submission: Submission) -> bool:
    return PUBLISH in submission.attempts
