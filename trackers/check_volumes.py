"""Whether a volume can hold sessions: there, writable, lockable, with room left."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trackers.check import Finding
from trackers.errors import FileSystemError
from trackers.processes import this_account
from trackers.shares import is_held, try_lock

NEARLY_FULL, FULL = 0.9, 0.99
QUOTA_SECONDS = 15.0
LOCAL_ONLY = {"local_lock=all", "local_lock=flock", "nolock", "localflock"}  # locks that other nodes do not see
_QUOTA_FIELDS = 9


@dataclass(frozen=True)
class Mount:
    """One line of /proc/mounts."""

    point: str
    kind: str
    options: frozenset[str]


@dataclass(frozen=True)
class Quota:
    """One line of quota(1) or `lfs quota`: KiB and files, 0 for no limit; the hard limit where there is one."""

    filesystem: str
    used_kib: int
    limit_kib: int
    used_files: int
    limit_files: int

    @property
    def share(self) -> float:
        """How much of the tighter limit is used, 1 for all of it."""
        parts = ((self.used_kib, self.limit_kib), (self.used_files, self.limit_files))
        return max((used / limit for used, limit in parts if limit), default=0.0)


def volume(name: str, path: Path) -> Iterator[Finding]:
    """Look at one volume: there and writable, locks, room, quota where there is one."""
    there = writable(name, path)
    yield there
    if there.result == "failure":
        skipped = f"not looked at, because the {name} volume cannot be used"
        yield Finding(f"{name} locks", "skipped", skipped)
        yield Finding(f"{name} room", "skipped", skipped)
        return
    mount = mount_of(os.path.realpath(path), parse_mounts(Path("/proc/mounts").read_text(errors="replace")))
    yield locks(name, path, mount)
    yield room(name, os.statvfs(path))
    if (found := _quota(path, mount)) is not None:
        yield quota(name, found)


def writable(name: str, path: Path) -> Finding:
    """Write a file into the volume and remove it."""
    step = f"{name} volume"
    try:
        path.stat()
        what = "" if path.is_dir() else "is no folder"
    except OSError as error:
        what = f"cannot be seen by {this_account()}: {error.strerror}"
    if what:
        return Finding(
            *(step, "failure", f"{path} {what}"),
            f"Correct {name}_root and shared_directory_name in the description, or make it there: mkdir -p '{path}'",
        )
    file = _scratch(path)
    try:
        file.write_bytes(b"x" * 4096)
        file.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            file.unlink()
        return Finding(
            *(step, "failure", f"{path} cannot be written by {this_account()}: {error.strerror}"),
            "Ask the volume's owner for a folder that this account, or the lab's group, may write.",
        )
    return Finding(step, "ok", f"{path} is there and writable")


def locks(name: str, path: Path, mount: Mount | None) -> Finding:
    """Take a lock on the volume, and see whether another one is refused meanwhile."""
    step, file = f"{name} locks", _scratch(path)
    kind = f" ({mount.kind})" if mount else ""
    descriptor = None
    try:
        descriptor = try_lock(file)
        if descriptor is None or not is_held(file):
            return Finding(
                *(step, "failure", f"flock excludes nobody on this file system{kind}"),
                "Mount it with locking (NFS: local_lock=none, Lustre: -o flock) or use another volume.",
            )
    except FileSystemError as error:
        return Finding(step, "failure", f"no flock{kind}", str(error).partition(" Nothing was changed. ")[2])
    except OSError as error:
        return Finding(step, "failure", f"{error.strerror}{kind}", "Ask the administrator whether flock is supported.")
    finally:
        if descriptor is not None:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            file.unlink()
    if mount and (local := mount.options & LOCAL_ONLY):
        return Finding(
            *(step, "warning", f"flock works on this node only: {mount.point} is mounted with {', '.join(local)}"),
            "Ask for a mount whose locks all nodes see (NFS: local_lock=none, Lustre: flock); until then let managers "
            "use this one login node.",
        )
    return Finding(step, "ok", f"flock works{kind}")


def room(name: str, state: os.statvfs_result) -> Finding:
    """Say how full a volume is, bytes and inodes."""
    step = f"{name} room"
    size, free = state.f_blocks * state.f_frsize / 1e9, state.f_bavail * state.f_frsize / 1e9
    used = 1 - state.f_bavail / state.f_blocks if state.f_blocks else 0.0
    files = 1 - state.f_favail / state.f_files if state.f_files else 0.0  # 0: a file system that has no fixed number
    words = f"{used:.0%} full, {_amount(free)} of {_amount(size)} free"
    words += f"; {files:.0%} of its inodes used" if state.f_files else "; inodes without a limit"
    if max(used, files) >= FULL:
        return Finding(step, "failure", words, "Archive projects, or remove what is not needed any more.")
    if max(used, files) >= NEARLY_FULL:
        return Finding(step, "warning", words, "Make room before the next long recording.")
    return Finding(step, "ok", words)


def quota(name: str, found: Quota) -> Finding:
    """Say how much of a quota is used."""
    parts = []
    if found.limit_kib:
        parts.append(f"{_amount(found.used_kib * 1024 / 1e9)} of {_amount(found.limit_kib * 1024 / 1e9)}")
    if found.limit_files:
        parts.append(f"{found.used_files:,} of {found.limit_files:,} files")
    step, words = f"{name} quota", f"{' and '.join(parts)} used on {found.filesystem}"
    if found.share >= 1:
        return Finding(step, "failure", words, "Remove something, or ask the administrator for more.")
    if found.share >= NEARLY_FULL:
        return Finding(step, "warning", words, "Make room, or ask the administrator for more.")
    return Finding(step, "ok", words)


def parse_mounts(text: str) -> list[Mount]:
    """Read /proc/mounts, where blanks in names are octal."""
    found = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) >= 4:
            point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[1])
            found.append(Mount(point, fields[2], frozenset(fields[3].split(","))))
    return found


def mount_of(path: str, mounts: list[Mount]) -> Mount | None:
    """Return what a resolved path lies on; the last mount of a place is the one that counts."""
    inside = [mount for mount in mounts if path == mount.point or path.startswith(f"{mount.point.rstrip('/')}/")]
    return max(reversed(inside), key=lambda mount: len(mount.point), default=None)


def parse_quota(text: str) -> list[Quota]:
    """Read `quota -w -p` or `lfs quota -q`; lines that are none of it, and file systems without a limit, are left out.

    Both have: file system, KiB used, quota, limit, grace; files used, quota, limit, grace.
    """
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) != _QUOTA_FIELDS:
            continue
        numbers = [field.rstrip("*") for field in fields]
        if not all(numbers[index].isdecimal() for index in (1, 2, 3, 5, 6, 7)):
            continue
        _, kib, soft_kib, hard_kib, _, files, soft_files, hard_files, _ = (
            int(number) if number.isdecimal() else 0 for number in numbers
        )
        if soft_kib or hard_kib or soft_files or hard_files:
            found.append(Quota(fields[0], kib, hard_kib or soft_kib, files, hard_files or soft_files))
    return found


def _quota(path: Path, mount: Mount | None) -> Quota | None:
    """Ask for this account's quota; None where there is none, or nobody to ask."""
    if mount is None:
        return None
    lustre = mount.kind == "lustre"
    words = ["lfs", "quota", "-q", "-u", this_account(), mount.point] if lustre else ["quota", "-w", "-p"]
    if shutil.which(words[0]) is None:
        return None
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=QUOTA_SECONDS, check=False, cwd="/")
    except (OSError, subprocess.TimeoutExpired):
        return None
    names = {mount.point, _device(path)}
    return next((each for each in parse_quota(done.stdout) if lustre or each.filesystem in names), None)


def _device(path: Path) -> str:
    """Return the device or export that a path lies on, as df names it."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        words = ["df", "--output=source", str(path)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=QUOTA_SECONDS, check=False)
        return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    return ""


def _scratch(folder: Path) -> Path:
    return folder / f".sessionflow-check-{secrets.token_hex(4)}"


def _amount(gigabytes: float) -> str:
    return f"{gigabytes / 1000:.1f} TB" if gigabytes >= 1000 else f"{gigabytes:.1f} GB"
