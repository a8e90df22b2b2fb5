"""Every folder of a session or animal, with its size and state: what a person would otherwise walk through by hand."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from trackers.errors import FileSystemError, NotFoundError
from trackers.facts import sessions_of
from trackers.layout import SessionPaths
from trackers.names import validate_name
from trackers.site import Site
from trackers.targets import Target

SECONDS = 20.0  # for all folders together; on a slow volume a tree of 100,000 files takes longer
_LEFTOVERS = (".partial", ".removing")  # of an interrupted preparation or archiving


@dataclass(frozen=True)
class Place:
    """A folder of a session.

    Attributes:
        name: which of the session's folders it is.
        volume: storage or working; "both" where both are the same folder.
        state: exists, empty, missing, or unreadable.
        bytes, files: of all files below it; links are neither followed nor counted.
        counted: whether all of it was; else it holds at least that much.
        note: what else is to be known.
    """

    session: str
    name: str
    path: str
    volume: Literal["storage", "working", "both"]
    state: Literal["exists", "empty", "missing", "unreadable"]
    bytes: int = 0
    files: int = 0
    counted: bool = True
    note: str = ""


def places(site: Site, project: str, animal: str, session: str = "", seconds: float = SECONDS) -> list[dict[str, Any]]:
    """Return the folders of one session, or of all sessions of an animal, that are there or should be.

    Args:
        site: the server.
        project: its name.
        animal: its name.
        session: its name; empty: all of the animal's.
        seconds: how long sizes may be counted; after that, what is there is still listed.

    Raises:
        NotFoundError: there is no such project, animal or session.
    """
    target = Target.from_json(site, {"project": project})
    validate_name(animal, "animal")
    folder = target.project_paths.directory / animal
    sessions = [session] if session else [name for _, name in sessions_of(target, animal)]
    if not (folder / session).is_dir() or not sessions:
        what = f"session {session!r}" if session else "session of any kind"
        raise NotFoundError(f"There is no {what} in {folder}. Nothing was touched.")
    deadline = time.monotonic() + seconds
    found = []
    for name in sessions:
        paths = SessionPaths(site.volumes, project, animal, name)
        found += [_looked_at(place, deadline) for place in _named(paths)]
    return [asdict(place) for place in found]


def _named(paths: SessionPaths) -> list[Place]:
    """Return every folder that the session has by name, and what an interrupted move has left."""
    one = paths.volumes.one
    storage: Literal["storage", "both"] = "both" if one else "storage"
    working: Literal["working", "both"] = "both" if one else "working"
    named = [("raw_data", paths.raw_data, storage), ("tracking_data", paths.tracking_data, storage)]
    own = [] if one else [("archived_data", paths.archived_data, storage)]
    source = [] if one else [("source_data", paths.source_data, working)]
    all_of_them = [*named, *own, *source, ("processed_data", paths.processed_data, working)]
    found = [Place(paths.session, name, str(path), volume, "missing") for name, path, volume in all_of_them]
    for folder, volume in dict.fromkeys([(paths.storage_directory, storage), (paths.working_directory, working)]):
        for path in _leftovers(folder):
            note = "left by an interrupted preparation or archiving; the next run removes it"
            found.append(Place(paths.session, path.name, str(path), volume, "missing", note=note))
    return found


def _leftovers(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(_LEFTOVERS))
    except OSError:
        return []


def _looked_at(place: Place, deadline: float) -> Place:
    """Return a place with its state and size."""
    facts = asdict(place)
    try:
        facts["bytes"], facts["files"], facts["counted"] = _size(place.path, deadline)
    except FileNotFoundError:
        return place
    except OSError as error:
        return Place(**{**facts, "state": "unreadable", "counted": False, "note": str(error.strerror or error)})
    except FileSystemError as error:
        return Place(**{**facts, "state": "exists", "note": str(error)})
    return Place(**{**facts, "state": "exists" if facts["files"] or not facts["counted"] else "empty"})


def _size(path: str, deadline: float) -> tuple[int, int, bool]:
    """Return bytes, files, and whether everything was counted; a folder below that cannot be read counts as not."""
    if stat.S_ISLNK(os.lstat(path).st_mode):
        raise FileSystemError(f"a link to {os.path.realpath(path)}, which is not followed")
    size, files, counted = 0, 0, True
    folders = [path]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if time.monotonic() > deadline:
                        return size, files, False
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        size += entry.stat(follow_symlinks=False).st_size
                        files += 1
        except FileNotFoundError:
            if folder == path:
                raise
        except OSError:
            if folder == path:
                raise
            counted = False
    return size, files, counted
