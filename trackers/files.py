"""Files that several accounts and programs share: replaced whole and durably, and locked with flock beside the file."""

from __future__ import annotations

import contextlib
import errno
import os
import reprlib
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml

from trackers.errors import FileSystemError, LockTimeoutError, TrackerCorruptError

LOCK_TIMEOUT_SECONDS = 10.0
_LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: type[Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_State = TypeVar("_State")


def atomic_write(path: Path, content: bytes, *, more_to_come: bool = False) -> None:
    """Replace `path` whole: a temporary file beside it, fsync, rename, fsync of the directory.

    With `more_to_come`, the directory is left to the next write in it, which makes both renames durable in this order.

    The file keeps its directory's group, and is group-writable where the directory is, so that every account of a lab
    can continue what another one began.

    Raises:
        FileSystemError: the volume is full, read-only or does not permit it; what stood in `path` is unchanged.
    """
    folder, name = os.path.split(path)  # strings: this runs hundreds of times a second
    temporary = f"{folder}/.{name}.{os.urandom(4).hex()}.tmp"
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                follow_directory(descriptor, os.fstat(directory))
                _write_all(descriptor, content)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)  # noqa: PTH105
            if not more_to_come:
                os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise FileSystemError(
            f"{path} could not be written: {error.strerror or error}. What stood there before is unchanged."
        ) from error


def make_directory(path: Path) -> None:
    """Create `path` and its missing parents, each with the group and the group's permissions of the one above it.

    Raises:
        FileSystemError: the volume is full, read-only or does not permit it.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent)
    try:
        path.mkdir()
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            follow_directory(descriptor, path.parent.stat())
        finally:
            os.close(descriptor)
    except FileExistsError:
        if not path.is_dir():
            raise FileSystemError(f"{path} is in the way: it is not a directory. Nothing was changed.") from None
    except OSError as error:
        raise FileSystemError(
            f"{path} could not be created: {error.strerror or error}. Nothing was changed."
        ) from error


@contextlib.contextmanager
def locked(path: Path, timeout: float | None = None) -> Iterator[None]:
    """Hold `path`'s `.lock` file, the one that sl-shared-assets takes, for one read-modify-write.

    Raises:
        LockTimeoutError: another program held it for `timeout` seconds (10 unless given).
        FileSystemError: the file system has no flock, or does not permit this account to take the lock.
    """
    from filelock import unlock_descriptor  # what only reads does without, and starts the faster

    lock_path = f"{path}.lock"
    timeout = LOCK_TIMEOUT_SECONDS if timeout is None else timeout
    try:
        descriptor = _take(lock_path, time.monotonic() + timeout)
    except (OSError, NotImplementedError) as error:
        raise FileSystemError(lock_refusal(Path(lock_path), error)) from error
    if descriptor is None:
        raise LockTimeoutError(Path(lock_path), timeout)
    try:
        yield
    finally:
        unlock_descriptor(descriptor)  # closing alone would leave it to a process that was forked meanwhile
        os.close(descriptor)


def _take(lock_path: str, deadline: float) -> int | None:
    """Return the descriptor of a lock file that is ours, None after the deadline."""
    from filelock import lock_descriptor

    while True:
        descriptor = _open_lock(lock_path)
        try:
            if not lock_descriptor(descriptor, blocking=False) and not _wait(descriptor, deadline):
                break
            if os.fstat(descriptor).st_nlink:  # else somebody has removed the file: another one is the lock now
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    os.close(descriptor)
    return None


def _open_lock(lock_path: str) -> int:
    try:
        return os.open(lock_path, os.O_RDWR)
    except FileNotFoundError:
        make_directory(Path(lock_path).parent)
        create_like_directory(Path(lock_path))
        return os.open(lock_path, os.O_RDWR)
    except PermissionError:
        # The filelock of 5.1.0's time takes the group's right to write away whenever the file's owner takes the lock.
        # flock does not need it: it is the same lock.
        return os.open(lock_path, os.O_RDONLY)


def _wait(descriptor: int, deadline: float) -> bool:
    """Wait for a lock until the deadline, in a thread: the kernel serves in order, and who polls starves."""
    import fcntl  # only servers come here, and those have it

    failures: list[OSError] = []
    taken = threading.Event()

    def wait() -> None:  # after the deadline it goes on; what it then gets is given back with the closed descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            failures.append(error)
        taken.set()

    threading.Thread(target=wait, name="wait for a lock", daemon=True).start()
    if not taken.wait(max(0.0, deadline - time.monotonic())):
        return False
    if failures:
        raise failures[0]
    return True


def read_file(path: Path) -> bytes:
    """Return what a state file holds.

    Raises:
        FileNotFoundError: there is no such file.
        FileSystemError: it is none, or this account may not read it.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileSystemError(f"{path} cannot be read: {error.strerror or error}. Nothing was changed.") from error


def read_settled(path: Path, read: Callable[[], _State]) -> _State:
    """Read a state file; where it seems corrupt once more under its lock, for 5.1.0 writes in place: it may write now.

    Raises:
        TrackerCorruptError: it is corrupt, or seems so to an account that may not lock it.
    """
    try:
        return read()
    except TrackerCorruptError as corrupt:
        if not os.path.exists(f"{path}.lock"):  # noqa: PTH110 - nobody writes; and reading leaves no new file behind
            raise
        try:
            with locked(path):
                return read()
        except FileSystemError:
            raise corrupt from None


def load_yaml(path: Path, remedy: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; `remedy` ends the error's text.

    Raises:
        FileNotFoundError: there is no such file.
        FileSystemError: it cannot be read.
        TrackerCorruptError: the file is empty, no YAML, or no mapping.
    """
    return parse_yaml(read_file(path), path, remedy)


def parse_yaml(content: bytes, path: Path, remedy: str) -> dict[str, Any]:
    """Return the mapping that `content` is, which was read from `path`; for errors see `load_yaml`."""
    try:
        data = yaml.load(content, _LOADER)  # noqa: S506 - a safe loader
    except Exception as error:  # a value under a wrong tag fails as it likes: KeyError, IndexError, AttributeError
        raise TrackerCorruptError(path, f"it is no YAML ({_yaml_problem(error)})", remedy) from None
    if data is None:
        raise TrackerCorruptError(path, "it is empty", remedy)
    if not isinstance(data, dict):
        raise TrackerCorruptError(path, f"it holds a {type(data).__name__} where a mapping belongs", remedy)
    return data


def refuse_cut_off(content: bytes, data: dict[str, Any], keys: Collection[str], path: Path, remedy: str) -> None:
    """Refuse a state file that was cut off: what is left may still be YAML, with half a number for a number.

    A whole one ends with the mark `...`, as every file of the lab's programs does, or has all `keys` and whole lines.

    Raises:
        TrackerCorruptError: it was cut off.
    """
    if content.rstrip().endswith(b"\n...") or (content.endswith(b"\n") and all(key in data for key in keys)):
        return
    last_line = content.splitlines()[-1].decode(errors="replace")
    raise TrackerCorruptError(path, f"it is cut off after {reprlib.repr(last_line)}", remedy)


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None and getattr(error, "problem", None):
        return f"{error.problem} in line {mark.line + 1}"  # type: ignore[attr-defined]
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def dump_yaml(data: dict[str, Any]) -> bytes:
    """Return `data` as the lab's programs write it: one document with explicit start and end, keys in their order."""
    text: str = yaml.dump(
        data, Dumper=_DUMPER, sort_keys=False, explicit_start=True, explicit_end=True, allow_unicode=True
    )
    return text.encode()


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def create_like_directory(path: Path) -> None:
    """Create an empty file with its directory's group, and the group's right to write; one that is there stays.

    Raises:
        OSError: the volume is full, read-only or does not permit it.
    """
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            follow_directory(descriptor, path.parent.stat())
        finally:
            os.close(descriptor)


def follow_directory(descriptor: int, directory: os.stat_result) -> None:
    """Give a new file or folder its directory's group, and that group the directory's right to write."""
    own = os.fstat(descriptor)
    with contextlib.suppress(PermissionError):  # an account outside the group still gets a file that is its own
        if own.st_gid != directory.st_gid:
            os.fchown(descriptor, -1, directory.st_gid)
        mode = stat.S_IMODE(own.st_mode)
        wanted = mode | (
            directory.st_mode & (stat.S_IRWXG if stat.S_ISDIR(own.st_mode) else stat.S_IRGRP | stat.S_IWGRP)
        )
        if stat.S_ISDIR(own.st_mode) and wanted & stat.S_IWGRP:
            wanted |= stat.S_ISGID  # what job scripts and programs create in it keeps the group as well
        if wanted != mode:
            os.fchmod(descriptor, wanted)


def lock_refusal(lock_path: Path, error: BaseException) -> str:
    """Say why a lock could not be taken that nobody holds, and what to do."""
    code = getattr(error, "errno", None)
    if code in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK) or isinstance(error, NotImplementedError):
        return (
            f"{lock_path} is on a file system without flock, so nobody could see our locks there. Nothing was changed. "
            "Mount it with locking (NFS: local_lock=none, Lustre: -o flock) or use another volume."
        )
    if code in (errno.EACCES, errno.EPERM):
        return (
            f"{lock_path} may not be written by this account. Nothing was changed. "
            f"Let its owner run: chmod g+rw '{lock_path}'"
        )
    return f"{lock_path} could not be locked: {getattr(error, 'strerror', None) or error}. Nothing was changed."
