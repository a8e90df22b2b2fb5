"""Checksum, copy and manifest, against a plain read, `xxhsum -H2`, and `cp -a` + `sync` + a plain read of the copy."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
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
    return [*found, *_manifest_rows(folder)]


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
    works = {"": lambda: directory_checksum(directory), "plain read": lambda: plain_read(directory)}
    if shutil.which("xxhsum"):
        works["xxhsum -H2"] = lambda: _xxhsum(directory)
    return _rows(f"checksum, {shape}", in_turns(works))


def _copy_rows(shape: str, directory: Path, folder: Path) -> list[Row]:
    def removed() -> None:
        shutil.rmtree(folder / "copy")
        os.sync()

    works: dict[str, Callable[[], object]] = {
        "": lambda: copy_tree(directory, folder / "copy", lambda: None),
        "cp -a; sync; plain read": lambda: _cp(directory, folder / "copy", from_disk=False),
        "the same, read from the disk": lambda: _cp(directory, folder / "copy", from_disk=True),
    }
    return _rows(f"durable verified copy, {shape}", in_turns(works, after=removed))


def _xxhsum(directory: Path) -> None:
    command = f"find '{directory}' -type f -print0 | xargs -0 xxhsum -H2"
    subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)


def _cp(source: Path, destination: Path, *, from_disk: bool) -> None:
    subprocess.run(["cp", "-a", str(source), str(destination)], check=True)
    os.sync()
    for parent, _, names in os.walk(destination) if from_disk else ():  # else memory is read, and not the disk
        for name in names:
            descriptor = os.open(f"{parent}/{name}", os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    plain_read(destination)


def _manifest_rows(folder: Path) -> list[Row]:
    paths = ProjectPaths(Volumes(folder, folder), "Manifest")
    for number in range(SESSIONS):
        _session(paths, str(100 + number % 20), f"2025-01-01-00-{number // 60 % 60:02d}-{number % 60:02d}-{number:06d}")
    command = [sys.executable, "-P", "-m", "jobs.manifest", "--manager-id", "1", "--project", paths.project]
    command += ["--storage", str(folder), "--working", str(folder)]
    seconds = in_turns(
        {
            "": lambda: generate_manifest(paths, 1),
            "as a program": lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL),
        }
    )
    shutil.rmtree(paths.directory)
    what = f"manifest, {SESSIONS:,} sessions"
    return [
        (f"{what}{', ' if name else ''}{name}", f"{taken:.2f} s", "goal", "1.00 s", f"{taken:.2f}")
        for name, taken in seconds.items()
    ]


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


def in_turns(works: Mapping[str, Callable[[], object]], after: Callable[[], object] = lambda: None) -> dict[str, float]:
    """Return the median of some runs of each, seconds; in turns, so that what the machine does meanwhile hits all.

    Args:
        works: what to run, by name.
        after: done after each run, not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
            after()
    return {name: statistics.median(runs) for name, runs in seconds.items()}


def _rows(what: str, seconds: dict[str, float]) -> list[Row]:
    """Return a row for each alternative; ours is the one without a name."""
    ours = seconds.pop("")
    labels = [what] + [""] * len(seconds)
    return [
        (label, f"{ours:.2f} s", name, f"{theirs:.2f} s", f"{ours / theirs:.2f}")
        for label, (name, theirs) in zip(labels, seconds.items(), strict=False)
    ]


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
