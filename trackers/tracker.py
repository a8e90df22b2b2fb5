"""The processing tracker: one pipeline's status on one target, in the file that sl-shared-assets 5.1.0 uses."""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trackers.commands import command, on_session
from trackers.errors import TrackerCorruptError, TrackerOwnedError
from trackers.files import atomic_write, locked, parse_yaml, read_file, read_settled, refuse_cut_off
from trackers.manager import MAXIMUM_MANAGER_ID, NOBODY, validate_manager_id
from trackers.names import TrackerFileNames

_TEXT = """\
---
file_path: null
_complete: {complete}
_encountered_error: {error}
_running: {running}
_manager_id: {manager_id}
_lock_path: null
_job_count: {job_count}
_completed_jobs: {completed_jobs}
...
"""
_FLAG = "(true|false)"
_PATTERN = re.compile(
    _TEXT.replace(".", "[.]")
    .format(
        complete=_FLAG,
        error=_FLAG,
        running=_FLAG,
        manager_id="(-1|[0-9]{1,20})",
        job_count="([0-9]{1,10})",
        completed_jobs="([0-9]{1,10})",
    )
    .encode()
)
_KEYS = tuple(line.partition(":")[0] for line in _TEXT.splitlines()[1:-1])
_MOST_JOBS = 2**31


@dataclass(frozen=True)
class TrackerState:
    """What a tracker file says.

    Attributes:
        manager_id: the manager that runs the pipeline, -1 for nobody.
        job_count: jobs that the pipeline was started with.
        completed_jobs: how many of them have ended well.
    """

    complete: bool = False
    encountered_error: bool = False
    running: bool = False
    manager_id: int = NOBODY
    job_count: int = 1
    completed_jobs: int = 0


FRESH = TrackerState()


class ProcessingTracker:
    """A tracker file, safe to use while other programs, also sl-shared-assets 5.1.0's, use the same one.

    Every change is one read-modify-write under the file's `.lock`; the file is replaced whole. A file that cannot be
    understood is an error and stays as it is, until `abort` resets it. Reading creates and changes nothing: a missing
    file reads as fresh.
    """

    def __init__(self, file_path: Path) -> None:
        """Name the tracker; nothing is read or written yet.

        Raises:
            ValueError: the file's name is not one of `TrackerFileNames`.
        """
        file_path = Path(file_path)
        if file_path.name not in set(TrackerFileNames):
            known = ", ".join(TrackerFileNames)
            raise ValueError(f"{file_path.name!r} names no tracker; the known ones are {known}.")
        self.file_path = file_path

    def start(self, manager_id: int, job_count: int = 1) -> None:
        """Begin a run of `job_count` jobs; nothing changes where this manager already runs it.

        Raises:
            TrackerOwnedError: another manager runs it.
            TrackerCorruptError, LockTimeoutError, FileSystemError: see `read`; the file is unchanged.
        """
        validate_manager_id(manager_id)
        if isinstance(job_count, bool) or not isinstance(job_count, int) or job_count < 1:
            raise ValueError(f"{job_count!r} is no number of jobs: a positive integer is needed. Nothing was changed.")
        with locked(self.file_path):
            state = self._read()
            if not self._runs_under(state, manager_id, "started"):
                self._write(TrackerState(running=True, manager_id=manager_id, job_count=job_count))

    def stop(self, manager_id: int) -> None:
        """Count one job of the run as done; the last one completes the pipeline.

        Raises:
            TrackerOwnedError: another manager runs it.
        """
        with locked(self.file_path):
            state = self._read()
            if self._runs_under(state, validate_manager_id(manager_id), "stopped"):
                done = state.completed_jobs + 1
                if done < state.job_count:
                    self._write(replace(state, completed_jobs=done))
                else:
                    self._write(TrackerState(complete=True, job_count=state.job_count, completed_jobs=state.job_count))

    def error(self, manager_id: int) -> None:
        """End the run as failed.

        Raises:
            TrackerOwnedError: another manager runs it.
        """
        with locked(self.file_path):
            state = self._read()
            if self._runs_under(state, validate_manager_id(manager_id), "marked as failed"):
                self._write(replace(state, encountered_error=True, running=False, manager_id=NOBODY))

    def abort(self) -> None:
        """Reset the tracker to fresh, whatever it holds and whoever runs it."""
        with locked(self.file_path):
            self._write(FRESH)

    def set_state(self, state: TrackerState) -> None:
        """Write a state that was computed elsewhere, from the submission record, over whatever stands there."""
        with locked(self.file_path):
            self._write(state)

    @property
    def is_running(self) -> bool:
        """Whether a manager runs the pipeline."""
        return self.read().running

    @property
    def is_complete(self) -> bool:
        """Whether the last run ended well."""
        return self.read().complete

    @property
    def encountered_error(self) -> bool:
        """Whether the last run failed."""
        return self.read().encountered_error

    def read(self) -> TrackerState:
        """Return what the file says; a missing file is a fresh tracker.

        Raises:
            TrackerCorruptError: the file is empty, cut off, foreign, or has a value of the wrong type.
            FileSystemError: it is no file, or this account may not read it.
        """
        return read_settled(self.file_path, self._read)

    def _read(self) -> TrackerState:
        try:
            return _parse(self.file_path)
        except FileNotFoundError:
            return FRESH

    def _runs_under(self, state: TrackerState, manager_id: int, verb: str) -> bool:
        """Tell whether `manager_id` runs it; refuse where another one does."""
        if state.running and state.manager_id != manager_id:
            raise TrackerOwnedError(
                f"{self.file_path} is running under manager {state.manager_id} and cannot be {verb} by manager "
                f"{manager_id}. Nothing was changed. Wait for that manager; if it is gone for good: "
                f"{reset_command(self.file_path)}"
            )
        return state.running

    def _write(self, state: TrackerState) -> None:
        atomic_write(self.file_path, _format(state))


def _format(state: TrackerState) -> bytes:
    return _TEXT.format(
        complete=_word(state.complete),
        error=_word(state.encountered_error),
        running=_word(state.running),
        manager_id=state.manager_id,
        job_count=state.job_count,
        completed_jobs=state.completed_jobs,
    ).encode()


def _word(flag: bool) -> str:
    return "true" if flag else "false"


def _parse(path: Path) -> TrackerState:
    """Read a tracker: as we and 5.1.0 write it by its text, which is ten times faster, any other YAML as YAML."""
    content = read_file(path)
    if match := _PATTERN.fullmatch(content):
        complete, error, running, manager_id, job_count, completed_jobs = match.groups()
        state = TrackerState(
            *(word == b"true" for word in (complete, error, running)),
            *(int(number) for number in (manager_id, job_count, completed_jobs)),
        )
        if state.manager_id <= MAXIMUM_MANAGER_ID and 1 <= state.job_count <= _MOST_JOBS >= state.completed_jobs:
            return state
    return _parse_yaml(content, path)


def _parse_yaml(content: bytes, path: Path) -> TrackerState:
    remedy = f"Look at it, then reset it with: {reset_command(path)}"
    data = parse_yaml(content, path, remedy)

    def flag(key: str) -> bool:
        value = data.get(key)
        if not isinstance(value, bool):
            raise TrackerCorruptError(path, _wrong(key, value, "true or false"), remedy)
        return value

    def number(key: str, low: int, high: int, default: int | None = None) -> int:
        value = data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise TrackerCorruptError(path, _wrong(key, value, f"an integer from {low} to {high}"), remedy)
        return value

    state = TrackerState(
        complete=flag("_complete"),
        encountered_error=flag("_encountered_error"),
        running=flag("_running"),
        manager_id=number("_manager_id", NOBODY, MAXIMUM_MANAGER_ID),
        job_count=number("_job_count", 1, _MOST_JOBS, default=1),  # 5.0 wrote no counts
        completed_jobs=number("_completed_jobs", 0, _MOST_JOBS, default=0),
    )
    refuse_cut_off(content, data, _KEYS, path, remedy)
    return state


def reset_command(path: Path) -> str:
    """Return the command with which a person resets a tracker file."""
    pipeline, directory = TrackerFileNames(path.name).name.lower(), path.absolute().parent
    if directory.name == "tracking_data":
        return on_session(directory.parent, "tracker", "reset", options=(pipeline,))
    if path.name in (TrackerFileNames.MULTIDAY, TrackerFileNames.FORGING):
        return command("tracker", "reset", str(directory), pipeline)
    return command("tracker", "reset", directory.name, pipeline, "--storage", str(directory.parent))


def _wrong(key: str, value: Any, wanted: str) -> str:
    found = "is missing" if value is None else f"is {reprlib.repr(value)}"
    return f"{key} {found} where {wanted} belongs"
