"""Sessions that are processed when they arrive: which projects want that, and what has arrived there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trackers.errors import SessionflowError
from trackers.exclusions import exclusion_words
from trackers.facts import sessions_of
from trackers.files import atomic_write, dump_yaml, load_yaml, locked, make_directory
from trackers.layout import SessionPaths
from trackers.manager import NOBODY
from trackers.names import validate_name
from trackers.processes import this_account
from trackers.session import Completeness, completeness
from trackers.site import Site
from trackers.targets import Target

CLAIM = "arrival.yaml"  # in a session's tracking_data: which watch starts it; no other one may
FILE = "settings/arrival.yaml"  # in the project's folder; its sessions are processed on arrival as long as it is there


@dataclass(frozen=True)
class Arrival:
    """That a project's sessions are processed when they arrive.

    Attributes:
        requested_by: who said so, as they say; not verified.
        user: the account that wrote it.
        since: UTC, ISO 8601.
        there_before: ANIMAL/SESSION of those that were complete then: they have not arrived since. Names instead of a
            time, for clocks differ, and a copy may keep the times of its original.
    """

    requested_by: str = ""
    user: str = field(default_factory=this_account)
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    there_before: tuple[str, ...] = ()

    def describe(self) -> str:
        """Say since when, and who wanted it."""
        who = f"{self.requested_by} (unverified), as user {self.user}" if self.requested_by else self.user
        return f"since {self.since[:16].replace('T', ' ')} UTC, asked for by {who}"


def arrival_of(target: Target) -> Arrival | None:
    """Return whether a project's sessions are processed on arrival; None where they are not.

    Raises:
        TrackerCorruptError, FileSystemError: the file cannot be read.
    """
    with contextlib.suppress(FileNotFoundError):
        data = load_yaml(_file(target), "As long as it is there, nothing of the project is processed on arrival.")
        known = {key: str(data[key]) for key in ("requested_by", "user", "since") if key in data}
        return Arrival(**known, there_before=tuple(map(str, data.get("there_before") or ())))
    return None


def switch_on(target: Target, requested_by: str) -> Arrival:
    """Have a project's sessions processed when they arrive from now on; what is complete already is left alone."""
    if (found := arrival_of(target)) is not None:
        return found
    there = tuple(
        f"{animal}/{session}" for animal, session in sessions_of(target) if _complete(target, animal, session)
    )
    arrival = Arrival(requested_by, there_before=there)
    make_directory(_file(target).parent)
    with locked(_file(target)):
        atomic_write(_file(target), dump_yaml({**asdict(arrival), "there_before": list(there)}))
    return arrival


def switch_off(target: Target) -> bool:
    """Have nothing of a project processed on arrival any more; tell whether it was."""
    try:
        _file(target).unlink()
    except FileNotFoundError:
        return False
    return True


def lacking(paths: SessionPaths) -> str:
    """Say what a session lacks that may still come, from its folder on; empty where nothing is to be waited for.

    Raises:
        NotFoundError: there is no such project, where the session could come to.
    """
    paths.project_paths.check()
    if not paths.storage_directory.is_dir():
        return f"there is no session in {paths.storage_directory} yet"
    found = completeness(paths.raw_data)
    return found.value if found is Completeness.INCOMPLETE else ""


def arrivals(site: Site, waiting: Iterable[dict[str, Any]], watch: str = "") -> dict[str, Any]:
    """Return what a watch is to start in the projects that want that, and which sessions need not be waited for longer.

    A session has arrived when it is complete, was not when its project was switched on, nothing ever ran on it, nobody
    works on it now, and it is not excluded. The first watch that hears of it is to start it, and no other one.

    Args:
        site: whose projects.
        waiting: project, animal and session of those that a run waits for.
        watch: who asks; empty: somebody who starts nothing.
    """
    arrived: list[dict[str, str]] = []
    problems: list[str] = []
    for project in _projects(site) if watch else ():
        target = Target(site, project)
        try:
            switched = arrival_of(target)
            for paths in _new(target, switched) if switched is not None else ():
                if claim(paths, watch) == watch:
                    arrived.append({"project": project, "animal": paths.animal, "session": paths.session})
        except (SessionflowError, OSError) as error:
            problems.append(f"{project}: {error}")
    complete = [names for names in waiting if _lacks_nothing(site, names)]
    return {"arrived": arrived, "complete": complete, "problems": problems}


def claim(paths: SessionPaths, watch: str) -> str:
    """Have one watch of several start a session that has arrived: return which, the first one that asked.

    The claim stays, for a run may wait for a long time before it leaves a trace on the server. A watch that dies before
    it has started the run does so when it is back; without it the session is left to project runs.

    Args:
        paths: of the session.
        watch: who asks; the same one may ask again.

    Raises:
        LockTimeoutError, FileSystemError, TrackerCorruptError: the claim could not be read or written.
    """
    make_directory(paths.tracking_data)
    path = paths.tracking_data / CLAIM
    with locked(path):
        with contextlib.suppress(FileNotFoundError):
            return str(load_yaml(path, "Remove it: then the next watch that asks starts the session.").get("watch"))
        since = datetime.now(UTC).isoformat(timespec="seconds")
        atomic_write(path, dump_yaml({"watch": watch, "user": this_account(), "since": since}))
    return watch


def _new(target: Target, switched: Arrival) -> Iterator[SessionPaths]:
    before = set(switched.there_before)
    for animal, name in sessions_of(target):
        if f"{animal}/{name}" in before or not _complete(target, animal, name):
            continue
        session = Target(target.site, target.project, animal, name)
        with contextlib.suppress(SessionflowError, OSError):  # a run would say so, and it begins with the next launch
            touched = session.all_submissions() or exclusion_words(session.paths)
            if not touched and session.lock.read().manager_id == NOBODY:
                yield session.paths


def _lacks_nothing(site: Site, names: dict[str, Any]) -> bool:
    with contextlib.suppress(SessionflowError, OSError):
        return not lacking(SessionPaths(site.volumes, *(str(names[key]) for key in ("project", "animal", "session"))))
    return False


def _complete(target: Target, animal: str, session: str) -> bool:
    raw_data = Target(target.site, target.project, animal, session).paths.raw_data
    return completeness(raw_data) is Completeness.COMPLETE


def _projects(site: Site) -> Iterator[str]:
    for directory in sorted(site.volumes.storage.iterdir()):
        with contextlib.suppress(SessionflowError, OSError):
            validate_name(directory.name, "project")
            if (directory / FILE).is_file():
                yield directory.name


def _file(target: Target) -> Path:
    return target.project_paths.directory / FILE
