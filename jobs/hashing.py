"""Digests of the files of a folder, at the disk's speed: a few threads, and one buffer each."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import xxhash

from trackers.errors import FileSystemError

THREADS = max(2, min(4, os.cpu_count() or 1))
BUFFER_BYTES = 1 << 20
BATCH_FILES = 64  # a task for each of many small files would cost more than reading it
BATCHES_PER_THREAD = 4  # at least, so that a few large files do not fall to one thread

Shown = Callable[[int], None]


class FileDigest(NamedTuple):
    """What a file held when it was read.

    Attributes:
        size: bytes.
        mtime_ns: its time of modification then.
        xxh3_128: of its contents; where it was asked for as `named`, of its relative path's bytes followed by them.
    """

    size: int
    mtime_ns: int
    xxh3_128: bytes


def files_of(directory: Path, excluded: frozenset[str] = frozenset()) -> list[str]:
    """Return the relative paths of all files below a folder, sorted as strings; links to folders are not followed.

    Args:
        directory: an existing folder.
        excluded: file names to leave out, at any level.

    Raises:
        FileSystemError: a folder cannot be read.
    """
    return sorted(_walk(str(directory), "", excluded))


def total_size(*directories: Path) -> int:
    """Return the bytes of all files below folders; missing ones have none."""
    return sum((d / name).stat().st_size for d in directories if d.is_dir() for name in files_of(d))


def folders_of(directory: Path) -> list[str]:
    """Return the relative paths of all folders below a folder, parents first."""
    found = []
    for parent, folders, _ in os.walk(directory):
        folders[:] = sorted(f for f in folders if not Path(parent, f).is_symlink())
        found += [os.path.relpath(Path(parent, folder), directory) for folder in folders]
    return found


def digests(
    directory: Path, names: list[str], *, named: bool = False, shown: Shown = lambda _bytes: None
) -> dict[str, FileDigest]:
    """Read files and return their digests by relative path.

    Args:
        directory: the folder that `names` are relative to.
        names: relative paths.
        named: digest each path before the contents, as directory checksums want it.
        shown: told the bytes that were read since it was last told; from any thread.

    Raises:
        FileSystemError: a file cannot be read, or changed meanwhile.
    """
    return in_batches(names, lambda name, shown: _digest(directory, name, named, shown), shown)


class _StoppedError(Exception):
    """Another thread failed, or the job was asked to end."""


def in_batches(names: list[str], work: Callable[[str, Shown], FileDigest], shown: Shown) -> dict[str, FileDigest]:
    """Do the same with many files in a few threads.

    The first error ends it and is raised, and so does SIGTERM, in the middle of files: they may take many minutes.

    Args:
        names: of the files.
        work: is given a name, and what to tell after each piece of the file.
        shown: told the bytes of each piece, from any thread.
    """
    size = max(1, min(BATCH_FILES, len(names) // (THREADS * BATCHES_PER_THREAD)))
    batches = [names[start : start + size] for start in range(0, len(names), size)]
    found: dict[str, FileDigest] = {}
    stopped = threading.Event()

    def shown_until_stopped(count: int) -> None:
        if stopped.is_set():
            raise _StoppedError
        shown(count)

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for batch in pool.map(lambda batch: [(name, work(name, shown_until_stopped)) for name in batch], batches):
                found.update(batch)
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return found


class Buffers(threading.local):
    """One reused buffer for each thread."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(BUFFER_BYTES))


_buffers = Buffers()


def read_through(descriptor: int) -> Iterator[memoryview]:
    """Go through a file's contents; each piece is overwritten by the next one."""
    view = _buffers.view
    while count := os.readv(descriptor, [view]):
        yield view[:count]


def _digest(directory: Path, name: str, named: bool, shown: Shown) -> FileDigest:
    path = f"{directory}/{name}"
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            before = os.fstat(descriptor)
            prefix = os.fsencode(name) if named else b""
            if before.st_size + len(prefix) < BUFFER_BYTES:
                digest = _digest_at_once(descriptor, prefix)
                shown(before.st_size)
            else:
                state = xxhash.xxh3_128(prefix)
                for piece in read_through(descriptor):
                    state.update(piece)
                    shown(len(piece))
                digest = state.digest()
            check_unchanged(path, before, os.fstat(descriptor))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unreadable(path, error) from error
    return FileDigest(before.st_size, before.st_mtime_ns, digest)


def _digest_at_once(descriptor: int, prefix: bytes) -> bytes:
    """Digest a file that fits into the buffer together with its path."""
    view = _buffers.view
    end = len(prefix)
    view[:end] = prefix
    while count := os.readv(descriptor, [view[end:]]):
        end += count
    return xxhash.xxh3_128_digest(view[:end])


def check_unchanged(path: str, before: os.stat_result, after: os.stat_result) -> None:
    """Refuse a file that somebody wrote while it was read.

    Raises:
        FileSystemError: its size or time differs.
    """
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise FileSystemError(f"{path} was changed while it was read. Nothing was changed by us. Find out who writes.")


def unreadable(path: str, error: OSError) -> FileSystemError:
    """Return the error that says so."""
    return FileSystemError(
        f"{path} cannot be read: {error.strerror}. Nothing was changed. Look at the disk and at the permissions."
    )


def _walk(directory: str, prefix: str, excluded: frozenset[str]) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _walk(entry.path, f"{prefix}{entry.name}/", excluded)
                elif entry.name not in excluded and entry.is_file():
                    yield prefix + entry.name
    except OSError as error:
        raise unreadable(str(error.filename or directory), error) from error
