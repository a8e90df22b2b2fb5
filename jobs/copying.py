"""Folders copied so that the copy is known to be on the disk and right before anything else changes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import xxhash

from jobs.hashing import (
    FileDigest,
    Shown,
    check_unchanged,
    digests,
    files_of,
    folders_of,
    in_batches,
    read_through,
    unreadable,
)
from trackers.errors import FileSystemError, SessionflowError
from trackers.files import follow_directory, make_directory

PARTIAL = ".partial"  # a copy that has not been verified yet; nothing of it is relied upon
REMOVING = ".removing"  # a folder that is no longer needed, on its way out
BLOCK_BYTES = 4096
SPARE_BYTES = 1 << 20
SPARE_PARTS = 100  # and a hundredth of what is copied, for what the file system itself needs
MOST_NAMED = 10

Check = Callable[[], None]
Accept = Callable[[dict[str, FileDigest]], None]


def copy_tree(
    source: Path,
    destination: Path,
    check: Check,
    *,
    names: list[str] | None = None,
    named: bool = False,
    accept: Accept = lambda _copied: None,
    shown: Shown = lambda _bytes: None,
) -> dict[str, FileDigest]:
    """Copy a folder by way of `DESTINATION.partial`; `destination` appears when every byte has been read back.

    Args:
        source: the folder to copy.
        destination: must not exist; with `names`, an existing folder that these files are added to.
        check: raises where we may no longer change anything; called before the copy is put in place.
        names: copy these files only.
        named: digest each path before the contents, as directory checksums want it.
        accept: raises where what was copied is not what was to be copied; called before it is put in place.
        shown: told the bytes that were copied or read back.

    Returns:
        the digests of what was copied, by relative path.

    Raises:
        FileSystemError: there is no room, a file cannot be copied, or what was read back differs. `destination` is
            unchanged, and the unfinished copy is removed.
    """
    check_plain(source)
    partial = destination.with_name(destination.name + PARTIAL)
    chosen = files_of(source) if names is None else names
    folders = folders_of(source) if names is None else sorted({p for n in chosen for p in _parents(n)})
    check_room(partial.parent, [(source / name).stat().st_size for name in chosen])
    shutil.rmtree(partial, ignore_errors=True)  # left by a copy that was killed
    try:
        make_directory(partial)
        for folder in folders:
            make_directory(partial / folder)
        copied = in_batches(chosen, lambda name, shown: _copy(source, partial, name, named, shown), shown)
        _sync(partial)
        _compare(partial, copied, digests(partial, chosen, named=named, shown=shown))
        accept(copied)
        check()
        _put_in_place(partial, destination, chosen, folders, whole=names is None)
    except BaseException:
        _discard(partial, check)
        raise
    return copied


def remove_tree(directory: Path, check: Check) -> None:
    """Remove a folder that is no longer needed; one that was begun to be removed is never taken for a whole one."""
    removing = directory.with_name(directory.name + REMOVING)
    shutil.rmtree(removing, ignore_errors=True)
    if directory.is_dir():
        check()
        directory.rename(removing)
        sync_directory(directory.parent)
        shutil.rmtree(removing)


def check_plain(directory: Path) -> None:
    """Refuse a folder with what a copy would lose: links to folders, broken links, sockets, pipes.

    Raises:
        FileSystemError: there is one.
    """
    for parent, folders, names in os.walk(directory):
        for name in (*folders, *names):
            path = Path(parent, name)
            if (path.is_symlink() and path.is_dir()) or not (path.is_dir() or path.is_file()):
                raise FileSystemError(
                    f"{path} is neither a file nor a folder, and would be lost. Nothing was changed. Remove it first."
                )


def check_no_link(directory: Path) -> None:
    """Refuse to move or remove a folder that is a link: what it points to is not ours to remove.

    Raises:
        FileSystemError: it is one, broken or not.
    """
    if directory.is_symlink():
        raise FileSystemError(
            f"{directory} is a link to {directory.readlink()}. Nothing was changed. Put the folder itself there."
        )


def check_room(directory: Path, sizes: list[int]) -> None:
    """Refuse a copy that does not fit.

    Args:
        directory: where the copy goes; it need not exist yet.
        sizes: of the files, bytes.

    Raises:
        FileSystemError: says how much is needed and how much there is.
    """
    while not directory.exists():
        directory = directory.parent
    needed = sum(-(-size // BLOCK_BYTES) * BLOCK_BYTES for size in sizes) + len(sizes) * BLOCK_BYTES // 8
    needed += needed // SPARE_PARTS + SPARE_BYTES
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise FileSystemError(
            f"{directory} has {_megabytes(free)} free, and {_megabytes(needed)} are needed. Nothing was changed. "
            "Archive other sessions to make room."
        )


def sizes_of(directory: Path) -> list[int]:
    """Return the sizes of all files below a folder, bytes."""
    return [(directory / name).stat().st_size for name in files_of(directory)]


def sync_directory(directory: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(partial: Path, check: Check) -> None:
    """Remove an unfinished copy, unless we lost the session: by now it may be the next manager's."""
    with contextlib.suppress(SessionflowError):
        check()
        shutil.rmtree(partial, ignore_errors=True)


def _copy(source: Path, partial: Path, name: str, named: bool, shown: Shown) -> FileDigest:
    """Copy one file in one pass that reads, digests and writes."""
    path = f"{source}/{name}"
    try:
        reader = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        before = os.fstat(reader)
        digest = xxhash.xxh3_128(os.fsencode(name) if named else b"")
        target = f"{partial}/{name}"
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IMODE(before.st_mode) | stat.S_IWUSR)
        try:
            for piece in read_through(reader):
                digest.update(piece)
                _write(writer, piece)
                shown(len(piece))
            follow_directory(writer, os.stat(os.path.dirname(target)))  # noqa: PTH116, PTH120 - 20,000 times
            os.utime(writer, ns=(before.st_atime_ns, before.st_mtime_ns))
        finally:
            os.close(writer)
        check_unchanged(path, before, os.fstat(reader))
    except OSError as error:
        raise FileSystemError(
            f"{path} cannot be copied to {partial}: {error.strerror}. The original and the destination are unchanged."
        ) from error
    finally:
        os.close(reader)
    return FileDigest(before.st_size, before.st_mtime_ns, digest.digest())


def _write(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece) :]


def _sync(directory: Path) -> None:
    """Have a folder's file system write everything to the disk at once, and forget it, so that it is read back."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:  # syncfs(2): one for all files
            raise FileSystemError(f"{directory} could not be written to the disk: {os.strerror(ctypes.get_errno())}.")
    finally:
        os.close(descriptor)
    for name in files_of(directory):
        file = os.open(directory / name, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def _compare(partial: Path, copied: dict[str, FileDigest], found: dict[str, FileDigest]) -> None:
    wrong = [name for name, digest in copied.items() if found[name].xxh3_128 != digest.xxh3_128]
    if wrong:
        raise FileSystemError(
            f"{len(wrong)} files in {partial} are not what was written: {some(wrong)}. The originals are unchanged. "
            "Look at that disk before you try again."
        )


def _put_in_place(partial: Path, destination: Path, names: list[str], folders: list[str], *, whole: bool) -> None:
    if whole:
        partial.rename(destination)
        sync_directory(destination.parent)
        return
    for folder in folders:
        make_directory(destination / folder)
    for name in names:
        (partial / name).rename(destination / name)
    for folder in ("", *folders):
        sync_directory(destination / folder)
    shutil.rmtree(partial)


def _megabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def some(names: list[str]) -> str:
    """Return the first few names for a message."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(repr(name) for name in sorted(names)[:MOST_NAMED]) + more
