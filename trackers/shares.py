"""This computer's cores as lock files, shared by every local job of every manager that uses the working root."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path

from trackers.errors import FileSystemError
from trackers.files import create_like_directory, lock_refusal, make_directory


def core_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass
class CoreShares:
    """One lock file a core. A job's processes inherit the locks that it took, and hold them as long as one lives.

    Whoever collects cores holds the queue's lock meanwhile: the first to come is the first to be served, a job that
    wants many is not overtaken for ever, and nobody waits for cores while holding some that another waits for.
    """

    directory: Path
    _queue: int | None = None
    _collected: list[int] = field(default_factory=list)

    def collect(self, cores: int) -> list[int] | None:
        """Take what is free; return the locks' descriptors once there are `cores`, else None: call again later."""
        make_directory(self.directory)
        if self._queue is None:
            self._queue = try_lock(self.directory / "queue")
            if self._queue is None:
                return None
        total = core_count()
        wanted = min(cores, total)
        for index in range(total):
            if len(self._collected) == wanted:
                break
            descriptor = try_lock(self.directory / f"core.{index}")
            if descriptor is not None:
                self._collected.append(descriptor)
        if len(self._collected) < wanted:
            return None
        taken, self._collected = self._collected, []
        self.give_up()
        return taken

    def give_up(self) -> None:
        """Stop collecting, and give back what was collected for nobody."""
        for descriptor in (*self._collected, *([] if self._queue is None else [self._queue])):
            os.close(descriptor)
        self._collected, self._queue = [], None


def try_lock(path: Path) -> int | None:
    """Lock a file that processes inherit, at once or not at all; return its descriptor, None where it is held.

    Not a filelock: that one closes its descriptor in a child process, and here the child is who holds it.
    """
    create_like_directory(path)
    descriptor = _open(path)
    try:
        free = _lock(descriptor, path)
    except FileSystemError:
        os.close(descriptor)
        raise
    if free:
        return descriptor
    os.close(descriptor)
    return None


def is_held(path: Path) -> bool:
    """Tell whether any process holds a lock that `try_lock` took; a missing file is held by nobody."""
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        return False
    try:
        return not _lock(descriptor, path)
    finally:
        os.close(descriptor)


def require_locks(directory: Path) -> None:
    """Refuse a folder on a file system without flock: no core there could ever be taken.

    Raises:
        FileSystemError: it is on one, or cannot be written.
    """
    make_directory(directory)
    create_like_directory(directory / "queue")
    is_held(directory / "queue")  # held or not, the question was answered


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR)
    except PermissionError:  # another account's: to lock it here, or to see that it is held, reading is enough
        return os.open(path, os.O_RDONLY)


def _lock(descriptor: int, path: Path) -> bool:
    """Lock an open file, at once or not at all; tell whether it was free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # EACCES: what some file systems say of a lock that is held
        return False
    except OSError as error:
        raise FileSystemError(lock_refusal(path, error)) from error
    return True
