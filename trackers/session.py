"""What a session says of itself: session_data.yaml and the marker files beside it."""

from __future__ import annotations

import contextlib
import os
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from trackers.errors import FileSystemError, NotFoundError, SessionDataError, TrackerCorruptError
from trackers.files import load_yaml
from trackers.layout import SessionPaths
from trackers.names import AcquisitionSystems, SessionTypes

SESSION_DATA = "session_data.yaml"
COMPLETE_MARKER = "telomere.bin"
UNINITIALIZED_MARKER = "nk.bin"
REMOVAL_MARKER = "ubiquitin.bin"
CHECKSUM_FILE = "ax_checksum.txt"
NOT_CHECKSUMMED = frozenset({CHECKSUM_FILE, COMPLETE_MARKER, UNINITIALIZED_MARKER, REMOVAL_MARKER})


class Completeness(StrEnum):
    """What the marker files in raw_data say; the values are reasons that people read."""

    COMPLETE = "complete"
    INCOMPLETE = "the session is incomplete: raw_data has no telomere.bin"
    UNINITIALIZED = "the session was never initialized: raw_data has nk.bin"
    MARKED_FOR_REMOVAL = "the session is marked for removal: raw_data has ubiquitin.bin"


@dataclass(frozen=True)
class SessionData:
    """A session's session_data.yaml, checked against its path.

    Attributes:
        experiment_name: set for experiments only.
        sl_experiment_version: version of the acquisition program, which decides the codes in the logs.
    """

    project: str
    animal: str
    session: str
    session_type: SessionTypes
    acquisition_system: AcquisitionSystems
    experiment_name: str | None
    sl_experiment_version: str


def completeness(raw_data: Path) -> Completeness:
    """Tell whether a session may be processed, from the marker files in its raw_data."""
    if (raw_data / REMOVAL_MARKER).exists():
        return Completeness.MARKED_FOR_REMOVAL
    if (raw_data / UNINITIALIZED_MARKER).exists():
        return Completeness.UNINITIALIZED
    return Completeness.COMPLETE if (raw_data / COMPLETE_MARKER).exists() else Completeness.INCOMPLETE


def load_session(paths: SessionPaths, *, thorough: bool = False) -> SessionData:
    """Read and check a session's session_data.yaml; changes nothing.

    Accepts what acquisition wrote and what sl-shared-assets 5.1.0 saves (with more null keys). A second file is looked
    for as deep as a misplaced copy is likely to lie; with `thorough`, which lists every folder, wherever it may be.

    Raises:
        NotFoundError: a root, the project, the animal or the session does not exist.
        SessionDataError: session_data.yaml is missing, there are two, it cannot be read, or it contradicts the path.
        FileSystemError: this account may not look into one of the folders.
    """
    try:
        paths.project_paths.check()
        animal = paths.storage_directory.parent
        if not animal.is_dir():
            raise NotFoundError(f"There is no animal {paths.animal!r} in {animal.parent}. Nothing was touched.")
        if not paths.storage_directory.is_dir():
            raise NotFoundError(f"There is no session {paths.session!r} in {animal}. Nothing was touched.")
        path = _the_one_file(paths, thorough=thorough)
    except OSError as error:
        raise FileSystemError(f"{error.filename} cannot be opened: {error.strerror}. Nothing was touched.") from error
    return _checked(path, paths)


def _the_one_file(paths: SessionPaths, *, thorough: bool) -> Path:
    expected = paths.raw_data / SESSION_DATA
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        expected.stat()  # raises where this account may not look, which the search below would take for an empty folder
    found = sorted(_everywhere(paths.storage_directory) if thorough else _near_the_top(paths.storage_directory))
    if not found:
        raise SessionDataError(f"{paths} has no {SESSION_DATA}: {expected} is missing. Nothing was touched.")
    if found != [expected]:
        listed = ", ".join(str(path) for path in found)
        raise SessionDataError(
            f"{paths} must have one {SESSION_DATA}, in raw_data; found: {listed}. Nothing was touched. "
            "Remove the wrong one."
        )
    return expected


def _near_the_top(directory: Path) -> Iterator[Path]:
    return (path for depth in ("", "*/", "*/*/") for path in directory.glob(depth + SESSION_DATA))


def _everywhere(directory: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(directory):  # folders that vanish meanwhile are passed over
        if SESSION_DATA in names or SESSION_DATA in folders:
            yield Path(folder, SESSION_DATA)


def _checked(path: Path, paths: SessionPaths) -> SessionData:
    try:
        data = load_yaml(path, "Restore it from the acquisition computer.")
    except FileNotFoundError:
        raise SessionDataError(f"{path} leads nowhere. Nothing was touched. Restore it.") from None
    except (TrackerCorruptError, FileSystemError) as error:
        raise SessionDataError(f"{paths}: {error}") from None
    for key, expected in (
        ("project_name", paths.project),
        ("animal_id", paths.animal),
        ("session_name", paths.session),
    ):
        value = data.get(key)
        if isinstance(value, bool) or not isinstance(value, str | int | float) or str(value) != expected:
            raise SessionDataError(
                f"{path} says {key} is {reprlib.repr(value)}, but the session lies under {expected!r}. "
                "Nothing was touched. Move the session to its place or correct the file."
            )
    return SessionData(
        project=paths.project,
        animal=paths.animal,
        session=paths.session,
        session_type=_member(SessionTypes, data, "session_type", path),
        acquisition_system=_member(AcquisitionSystems, data, "acquisition_system", path),
        experiment_name=None if data.get("experiment_name") is None else str(data["experiment_name"]),
        sl_experiment_version=str(data.get("sl_experiment_version") or ""),
    )


def _member(kind: Any, data: dict[str, Any], key: str, path: Path) -> Any:
    value = data.get(key)
    if isinstance(value, str) and value in set(kind):
        return kind(value)
    known = ", ".join(kind)
    raise SessionDataError(f"{path} says {key} is {reprlib.repr(value)}; known are: {known}. Nothing was touched.")
