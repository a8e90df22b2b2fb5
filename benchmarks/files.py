"""Checksum, copy and manifest, against a plain read, `xxhsum -H2`, and `cp -a` + `sync` + a plain read of the copy."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from jobs.checksum import directory_checksum
from jobs.copying import copy_tree
from jobs.manifest import generate_manifest
from trackers.files import dump_yaml
from trackers.layout import ProjectPaths, Volumes
from trackers.names import TrackerFileNames
from trackers.tracker import ProcessingTracker

SHAPES = {"1 × 4 GB": (1, 4_000_000_000), "2,000 × 1 MB": (2000, 1_000_000), "20,000 × 10 kB": (20_000, 10_000)}
FILES_IN_A_FOLDER = 500
REPEATS = 3
MEGABYTE = 1 << 20
SESSIONS = 1000

Row = tuple[str, ...]


def rows(folder: Path) -> list[Row]:
    """Measure and return the table's rows: what, ours, the alternative, theirs, ours / theirs."""
    found: list[Row] = []
    for shape, (count, size) in SHAPES.items():
        directory = folder / "tree"
        _make(directory, count, size)
        found += _checksum_rows(shape, directory)
        found += _copy_rows(shape, directory, folder)
        shutil.rmtree(directory)
    return [*found, _manifest_row(folder)]


def plain_read(directory: Path) -> None:
    """Read every file from one thread, into one buffer."""
    buffer = bytearray(MEGABYTE)
    for parent, _, names in os.walk(directory):
        for name in names:
            descriptor = os.open(f"{parent}/{name}", os.O_RDONLY)
            while os.readv(descriptor, [buffer]):
                pass
            os.close(descriptor)


def _checksum_rows(shape: str, directory: Path) -> list[Row]:
    ours = best(lambda: directory_checksum(directory))
    found = [_row(f"checksum, {shape}", ours, "plain read", best(lambda: plain_read(directory)))]
    if shutil.which("xxhsum"):
        command = f"find '{directory}' -type f -print0 | xargs -0 xxhsum -H2"
        theirs = best(lambda: subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL))
        found.append(_row("", ours, "xxhsum -H2", theirs))
    return found


def _copy_rows(shape: str, directory: Path, folder: Path) -> list[Row]:
    ours, theirs = [], []
    for _ in range(REPEATS):  # taken in turns: what the disk does meanwhile hits both
        ours.append(_seconds(lambda: copy_tree(directory, folder / "ours", lambda: None)))
        shutil.rmtree(folder / "ours")
        os.sync()
        theirs.append(_seconds(lambda: _cp(directory, folder / "theirs")))
        shutil.rmtree(folder / "theirs")
        os.sync()
    return [
        _row(
            f"durable verified copy, {shape}",
            statistics.median(ours),
            "cp -a; sync; plain read",
            statistics.median(theirs),
        )
    ]


def _cp(source: Path, destination: Path) -> None:
    subprocess.run(["cp", "-a", str(source), str(destination)], check=True)
    os.sync()
    for parent, _, names in os.walk(destination):  # else memory is read, and not the copy on the disk
        for name in names:
            descriptor = os.open(f"{parent}/{name}", os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    plain_read(destination)


def _manifest_row(folder: Path) -> Row:
    paths = ProjectPaths(Volumes(folder, folder), "Manifest")
    for number in range(SESSIONS):
        _session(paths, str(100 + number % 20), f"2025-01-01-00-{number // 60 % 60:02d}-{number % 60:02d}-{number:06d}")
    generate_manifest(paths, 1)
    seconds = best(lambda: generate_manifest(paths, 1))
    shutil.rmtree(paths.directory)
    return (f"manifest, {SESSIONS:,} sessions", f"{seconds:.2f} s", "goal", "1.00 s", f"{seconds:.2f}")


def _session(paths: ProjectPaths, animal: str, session: str) -> None:
    directory = paths.directory / animal / session
    (directory / "raw_data").mkdir(parents=True)
    (directory / "tracking_data").mkdir()
    data = {"project_name": paths.project, "animal_id": animal, "session_name": session, "session_type": "run training"}
    (directory / "raw_data" / "session_data.yaml").write_bytes(
        dump_yaml({**data, "acquisition_system": "mesoscope-vr"})
    )
    (directory / "raw_data" / "session_descriptor.yaml").write_bytes(dump_yaml({"experimenter_notes": "Ran well."}))
    (directory / "raw_data" / "telomere.bin").touch()
    for name in list(TrackerFileNames)[1:7]:
        ProcessingTracker(directory / "tracking_data" / name).abort()


def best(work: Callable[[], object]) -> float:
    """Return the shortest of some runs, seconds."""
    return min(_seconds(work) for _ in range(REPEATS))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _row(what: str, ours: float, alternative: str, theirs: float) -> Row:
    return (what, f"{ours:.2f} s", alternative, f"{theirs:.2f} s", f"{ours / theirs:.2f}")


def _make(directory: Path, count: int, size: int) -> None:
    block = os.urandom(min(size, MEGABYTE))
    for number in range(count):
        path = directory / str(number // FILES_IN_A_FOLDER) / f"{number:05d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            left = size
            while left:
                left -= file.write(block[: min(left, len(block))])


def scratch(directory: str | None) -> tempfile.TemporaryDirectory[str]:
    """Return a folder to measure in; on the disk that is to be measured, if one is named."""
    return tempfile.TemporaryDirectory(dir=directory)
