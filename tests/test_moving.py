"""Preparation and archiving undo each other, and lose nothing, whenever they are interrupted."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.archiving import archive
from jobs.hashing import digests, files_of
from jobs.preparation import prepare
from jobs.program import Terminated
from tests.conftest import SESSION
from tests.moved_session import MANAGER_ID, contents, nothing, process, session
from trackers.errors import JobFailedError, SessionLockedError
from trackers.layout import SessionPaths
from trackers.names import ProcessingPipelines
from trackers.tracker import ProcessingTracker


@pytest.fixture
def paths(tmp_path: Path) -> SessionPaths:
    return session(tmp_path)


def test_preparation_and_archiving_undo_each_other(paths: SessionPaths) -> None:
    raw = contents(paths.raw_data)
    prepare(paths, nothing)
    assert contents(paths.source_data) == raw
    process(paths)
    processed = contents(paths.processed_data)
    archive(paths, nothing)
    assert contents(paths.archived_data) == processed
    assert not paths.source_data.exists()
    assert not paths.processed_data.exists()
    prepare(paths, nothing)
    assert contents(paths.processed_data) == processed
    assert contents(paths.source_data) == raw == contents(paths.raw_data)
    assert not paths.archived_data.exists()


def test_times_of_files_are_kept(paths: SessionPaths) -> None:
    prepare(paths, nothing)
    for path in paths.raw_data.rglob("*.tiff"):
        copy = paths.source_data / path.relative_to(paths.raw_data)
        assert copy.stat().st_mtime_ns == path.stat().st_mtime_ns


def test_raw_data_that_is_not_what_its_checksum_says_is_not_prepared(paths: SessionPaths) -> None:
    (paths.raw_data / "mesoscope data" / "3.tiff").write_bytes(b"damaged")
    with pytest.raises(JobFailedError, match="not what its checksum says"):
        prepare(paths, nothing)
    assert list(paths.working_directory.iterdir()) == []


def test_a_source_data_that_is_no_copy_is_made_anew_but_never_one_with_files_of_its_own(paths: SessionPaths) -> None:
    prepare(paths, nothing)
    (paths.source_data / "mesoscope data" / "3.tiff").write_bytes(b"damaged")
    prepare(paths, nothing)
    assert contents(paths.source_data) == contents(paths.raw_data)
    (paths.source_data / "my notes").write_text("mine")
    with pytest.raises(JobFailedError, match="my notes"):
        prepare(paths, nothing)
    with pytest.raises(JobFailedError, match="my notes"):
        archive(paths, nothing)
    assert (paths.source_data / "my notes").read_text() == "mine"


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_archiving_verifies_what_it_takes_against_the_result_records(paths: SessionPaths, damage: str) -> None:
    prepare(paths, nothing)
    process(paths)
    record = {"outputs": [{"path": "processed_data/behavior_data/4.feather", "size": 3004, "xxh3_128": "0" * 32}]}
    (paths.tracking_data / "results").mkdir()
    (paths.tracking_data / "results" / "BEHAVIOR.json").write_text(json.dumps(record))
    if damage == "missing":
        (paths.processed_data / "behavior_data" / "4.feather").unlink()
    before = contents(paths.working_directory)
    with pytest.raises(JobFailedError, match=r"4\.feather"):
        archive(paths, nothing)
    assert contents(paths.working_directory) == before
    assert not paths.archived_data.exists()


def test_files_in_both_places_with_other_contents_are_a_persons_decision(paths: SessionPaths) -> None:
    prepare(paths, nothing)
    process(paths)
    other = paths.archived_data / "behavior_data" / "1.feather"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"other")
    before = contents(paths.processed_data)
    for move in (archive, prepare):
        with pytest.raises(JobFailedError, match=r"different contents"):
            move(paths, nothing)
    assert contents(paths.processed_data) == before
    assert other.read_bytes() == b"other"


@pytest.mark.parametrize(
    ("move", "counterpart"),
    [(prepare, ProcessingPipelines.ARCHIVING), (archive, ProcessingPipelines.PREPARATION)],
)
def test_one_is_refused_while_the_other_runs(
    paths: SessionPaths, move: Callable[..., object], counterpart: ProcessingPipelines
) -> None:
    ProcessingTracker(paths.tracker(counterpart)).start(123456)
    with pytest.raises(JobFailedError, match="123456"):
        move(paths, nothing)


@pytest.mark.parametrize("move", [prepare, archive])
def test_on_one_volume_nothing_is_copied_or_removed_whatever_runs(tmp_path: Path, move: Callable[..., object]) -> None:
    paths = session(tmp_path, one_volume=True)
    process(paths)
    for pipeline in (ProcessingPipelines.PREPARATION, ProcessingPipelines.ARCHIVING):
        ProcessingTracker(paths.tracker(pipeline)).start(123456)
    before = contents(tmp_path)
    move(paths, nothing)
    assert contents(tmp_path) == before


def test_a_lock_that_was_lost_stops_it_before_anything_is_put_in_place_or_removed(paths: SessionPaths) -> None:
    def lost() -> None:
        raise SessionLockedError("somebody else works on it")

    prepare(paths, nothing)
    process(paths)
    before = contents(paths.working_directory)
    with pytest.raises(SessionLockedError):
        archive(paths, lost)
    assert contents(paths.working_directory) == before
    assert not paths.archived_data.exists()


def _start(program: str, paths: SessionPaths) -> subprocess.Popen[str]:
    volumes = ["--storage", str(paths.volumes.storage), "--working", str(paths.volumes.working)]
    names = ["--project", "Project", "--animal", "305", "--session", SESSION, "--manager-id", str(MANAGER_ID)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", f"jobs.{program}", *volumes, *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_term_ends_it_in_the_middle_of_a_large_file(tmp_path: Path) -> None:
    paths = session(tmp_path)
    size, read = 50 << 30, []
    for name in ("face", "left"):
        with (paths.raw_data / f"{name}.mp4").open("wb") as video:
            video.truncate(size)  # a hole, which takes no room and long to read
    with pytest.raises(Terminated):
        _terminated(lambda: digests(paths.raw_data, files_of(paths.raw_data), shown=read.append))
    assert sum(read) < size


def _terminated(work: Callable[[], object]) -> None:
    def end(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        work()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_term_leaves_no_unfinished_copy_and_says_so(tmp_path: Path) -> None:
    paths = session(tmp_path, files=3000)
    program = _start("preparation", paths)
    partial = paths.source_data.with_name("source_data.partial")
    while not partial.exists():
        assert program.poll() is None
        time.sleep(0.005)
    program.send_signal(signal.SIGTERM)
    _, errors = program.communicate(timeout=20)
    assert (program.returncode, errors.strip()) == (143, "ended on request (SIGTERM)")
    assert list(paths.working_directory.iterdir()) == []


@pytest.mark.parametrize("kills", [12, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_run_again_every_byte_is_there_once_in_the_right_place(
    tmp_path: Path, kills: int
) -> None:
    paths = session(tmp_path, files=150)
    prepare(paths, nothing)
    process(paths, files=150)
    raw, processed = contents(paths.raw_data), contents(paths.processed_data)
    moment = random.Random(20250826)
    start_up = _duration("archiving", paths, complete=False)
    landed = 0
    for number in range(kills):
        name = ("preparation", "archiving")[number % 2]
        program = _start(name, paths)
        time.sleep(start_up * moment.uniform(0.3, 1.1))
        landed += program.poll() is None
        program.kill()
        program.communicate()
        if moment.random() < 0.5:
            continue  # let the opposite one find what this one left
        program = _start(name, paths)
        _, errors = program.communicate(timeout=60)
        assert program.returncode == 0, errors
        _check_places(paths, name, raw, processed)
    for name in ("preparation", "archiving"):
        program = _start(name, paths)
        _, errors = program.communicate(timeout=60)
        assert program.returncode == 0, errors
        _check_places(paths, name, raw, processed)
    assert landed >= kills // 4


def _duration(name: str, paths: SessionPaths, *, complete: bool) -> float:
    started = time.monotonic()
    program = _start(name, paths)
    program.communicate(timeout=60)
    assert complete or program.returncode == 0
    return time.monotonic() - started


def _check_places(
    paths: SessionPaths, name: str, raw: dict[str, bytes | None], processed: dict[str, bytes | None]
) -> None:
    assert contents(paths.raw_data) == raw
    there = {path.name for path in (*paths.working_directory.iterdir(), *paths.storage_directory.iterdir())}
    if name == "preparation":
        assert there == {"raw_data", "tracking_data", "source_data", "processed_data"}
        assert contents(paths.source_data) == raw
        assert contents(paths.processed_data) == processed
    else:
        assert there == {"raw_data", "tracking_data", "archived_data"}
        assert contents(paths.archived_data) == processed
