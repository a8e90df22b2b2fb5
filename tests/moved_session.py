"""A session whose data tests move between volumes."""

from __future__ import annotations

import os
from pathlib import Path

from jobs.checksum import regenerate
from tests.conftest import SESSION, make_session
from trackers.layout import SessionPaths, Volumes
from trackers.lock import SessionLock

MANAGER_ID = 77


def nothing() -> None:
    """Check nothing."""


def contents(directory: Path) -> dict[str, bytes | None]:
    """Return every file's bytes, and None for every folder, by relative path."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


def session(root: Path, *, one_volume: bool = False, files: int = 30) -> SessionPaths:
    storage, working = root / "storage", root / ("storage" if one_volume else "working")
    raw_data = make_session(storage) / "raw_data"
    working.mkdir(exist_ok=True)
    (raw_data / "mesoscope data").mkdir()
    for number in range(files):
        (raw_data / "mesoscope data" / f"{number}.tiff").write_bytes(os.urandom(2000 + 17 * number))
    (raw_data / "camera_data" / "empty folder").mkdir(parents=True)
    (raw_data.parent / "tracking_data").mkdir()
    paths = SessionPaths(Volumes(storage, working), "Project", "305", SESSION)
    regenerate(paths)
    SessionLock(paths.lock).acquire(MANAGER_ID)
    return paths


def process(paths: SessionPaths, files: int = 20) -> None:
    for number in range(files):
        path = paths.processed_data / "behavior_data" / f"{number}.feather"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(3000 + number))
    (paths.processed_data / "nothing in here").mkdir()
