"""Trackers and locks per second, against a floor that does nothing but the same system calls, as often."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trackers import files
from trackers.lock import SessionLock
from trackers.tracker import ProcessingTracker

SECONDS = 2.0
REPEATS = 3  # taken in turns: what the disk does meanwhile hits both
PROCESSES = (1, 8)
_ROUNDING = 1e-6
MANAGER_ID = 1  # the same for all processes, as for the jobs of one pipeline: nobody is refused, all contend


@dataclass(frozen=True)
class Measured:
    """What some processes did together.

    Attributes:
        cycles: how many, in all.
        slowest: the longest one, seconds.
        locks, writes, syncs: how often a file was locked, a file was replaced, and a file or folder was synced.
    """

    cycles: int
    slowest: float
    locks: int
    writes: int
    syncs: int

    @property
    def per_second(self) -> float:
        """Cycles a second."""
        return self.cycles / SECONDS

    @property
    def of_a_cycle(self) -> tuple[float, float, float]:
        """Locks, writes and syncs of one cycle, on average."""
        return self.locks / self.cycles, self.writes / self.cycles, self.syncs / self.cycles


def tracker_cycle(directory: Path) -> Callable[[], None]:
    """Return what starts and stops a tracker."""
    tracker = ProcessingTracker(directory / "behavior_processing_tracker.yaml")

    def cycle() -> None:
        tracker.start(MANAGER_ID)
        tracker.stop(MANAGER_ID)

    return cycle


def lock_cycle(directory: Path) -> Callable[[], None]:
    """Return what takes and releases a session lock."""
    lock = SessionLock(directory / "session_lock.yaml")

    def cycle() -> None:
        lock.acquire(MANAGER_ID)
        lock.release(MANAGER_ID)

    return cycle


def floor_cycle(directory: Path, locks: float, writes: float, syncs: float) -> Callable[[], None]:
    """Return what locks, replaces and syncs as often as a cycle did, on average, and nothing else."""
    path, lock_path = directory / "floor", directory / "floor.lock"
    content = b"x" * 170  # a tracker's size
    owed = {"locks": 0.0, "writes": 0.0, "syncs": 0.0}

    def cycle() -> None:
        owed["locks"] += locks
        owed["writes"] += writes
        owed["syncs"] += syncs
        while owed["locks"] >= 1:
            owed["locks"] -= 1
            descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            while owed["writes"] >= owed["locks"] + 1:  # the last of a cycle's locks writes what is left
                owed["writes"] -= 1
                both = owed["syncs"] >= owed["writes"] + 2 - _ROUNDING  # every write still owed needs one of its own
                owed["syncs"] -= 1 + both
                _replace(path, content, sync_folder=both)
            os.close(descriptor)

    return cycle


def measure(folder: Path, make: Callable[..., Callable[[], None]], processes: int, *arguments: float) -> Measured:
    """Have some processes cycle on the same files for a while."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(dir=folder) as name, context.Pool(processes) as pool:
        parts = pool.starmap(_work, [(make, Path(name), arguments)] * processes, chunksize=1)
    return Measured(
        sum(p.cycles for p in parts),
        max(p.slowest for p in parts),
        sum(p.locks for p in parts),
        sum(p.writes for p in parts),
        sum(p.syncs for p in parts),
    )


def rows(folder: Path) -> list[tuple[str, ...]]:
    """Measure and return the table's rows: what, processes, per second, floor, ratio, slowest, the floor's."""
    found: list[tuple[str, ...]] = []
    for name, make in (("tracker start + stop", tracker_cycle), ("lock take + release", lock_cycle)):
        for processes in PROCESSES:
            ours, floors = [], []
            for _ in range(REPEATS):
                ours.append(measure(folder, make, processes))
                floors.append(measure(folder, floor_cycle, processes, *ours[-1].of_a_cycle))
            rate, floor = (statistics.median(m.per_second for m in measured) for measured in (ours, floors))
            slowest, of_floor = (max(m.slowest for m in measured) for measured in (ours, floors))
            found.append(
                (
                    *(name, str(processes), f"{rate:,.0f}/s", f"{floor:,.0f}/s", f"{floor / rate:.2f}"),
                    *(f"{slowest:.3f} s", f"{of_floor:.3f} s"),
                )
            )
    return found


def _work(make: Callable[..., Callable[[], None]], directory: Path, arguments: tuple[float, ...]) -> Measured:
    counts = _count()
    cycle = make(directory, *arguments)
    cycles, slowest, end = 0, 0.0, time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < end:
        cycle()
        slowest = max(slowest, time.perf_counter() - began)
        cycles += 1
    return Measured(cycles, slowest, counts["locks"], counts["writes"], counts["syncs"])


def _count() -> dict[str, int]:
    """Count, in this process, what our own files do."""
    counts = {"locks": 0, "writes": 0, "syncs": 0}
    flock, replace, fsync = fcntl.flock, os.replace, os.fsync

    def counting_flock(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        counts["locks"] += operation & fcntl.LOCK_EX > 0

    def counting_replace(source: Path, target: Path) -> None:
        counts["writes"] += 1
        replace(source, target)

    def counting_fsync(descriptor: int) -> None:
        counts["syncs"] += 1
        fsync(descriptor)

    fcntl.flock = counting_flock  # type: ignore[assignment]
    files.os.replace = counting_replace  # type: ignore[attr-defined]
    files.os.fsync = counting_fsync  # type: ignore[attr-defined]
    return counts


def _replace(path: Path, content: bytes, *, sync_folder: bool) -> None:
    temporary = f"{path}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(descriptor, content)
    os.fsync(descriptor)
    os.close(descriptor)
    os.replace(temporary, path)  # noqa: PTH105 - the floor has no Path in it
    if sync_folder:
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
