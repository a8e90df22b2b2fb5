"""What preparation and archiving refuse to move or remove: then everything stays as it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs import copying
from jobs.archiving import archive
from jobs.preparation import prepare
from tests.moved_session import contents, nothing, process, session
from trackers.errors import FileSystemError, JobFailedError, SessionLockedError
from trackers.layout import SessionPaths


@pytest.fixture
def paths(tmp_path: Path) -> SessionPaths:
    return session(tmp_path)


def test_an_unfinished_copy_is_left_to_the_next_manager_when_the_lock_was_lost(paths: SessionPaths) -> None:
    def lost_at_the_end() -> None:
        if paths.source_data.with_name("source_data.partial").exists():
            raise SessionLockedError("somebody else works on it")

    with pytest.raises(SessionLockedError):
        prepare(paths, lost_at_the_end)
    assert [path.name for path in paths.working_directory.iterdir()] == ["source_data.partial"]
    prepare(paths, nothing)
    assert [path.name for path in paths.working_directory.iterdir()] == ["source_data"]


def _rot(paths: SessionPaths, name: str) -> bytes:
    """Flip a bit in a file of raw_data, as a disk does: size and time stay; return what it was."""
    path = paths.raw_data / name
    good, times = path.read_bytes(), path.stat()
    path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return good


@pytest.mark.parametrize("move", [prepare, archive])
def test_a_source_data_that_has_what_raw_data_lost_stays(paths: SessionPaths, move: Callable[..., object]) -> None:
    prepare(paths, nothing)
    process(paths)
    good = _rot(paths, "mesoscope data/5.tiff")
    if move is prepare:
        (paths.source_data / "mesoscope data" / "6.tiff").write_bytes(b"damaged, too")
    before = contents(paths.working_directory)
    with pytest.raises(JobFailedError, match=r"mesoscope data/5\.tiff"):
        move(paths, nothing)
    assert contents(paths.working_directory) == before
    assert (paths.source_data / "mesoscope data" / "5.tiff").read_bytes() == good


def test_a_copy_whose_times_were_rounded_is_a_copy_and_one_with_other_contents_is_none(paths: SessionPaths) -> None:
    prepare(paths, nothing)
    process(paths)
    for path in paths.source_data.rglob("*.*"):
        os.utime(path, (1_000_000_000, int(path.stat().st_mtime)))
    other = paths.source_data / "mesoscope data" / "5.tiff"
    size, good = other.stat().st_size, other.read_bytes()
    other.write_bytes(bytes(size))
    with pytest.raises(JobFailedError, match=r"mesoscope data/5\.tiff"):
        archive(paths, nothing)
    assert paths.processed_data.exists()
    other.write_bytes(good)
    archive(paths, nothing)
    assert not paths.source_data.exists()


@pytest.mark.parametrize("name", ["source_data", "processed_data"])
@pytest.mark.parametrize("broken", [False, True])
def test_a_folder_that_is_a_link_is_not_moved(paths: SessionPaths, tmp_path: Path, name: str, broken: bool) -> None:
    elsewhere = tmp_path / "elsewhere"
    prepare(paths, nothing)
    process(paths)
    linked = paths.working_directory / name
    linked.rename(elsewhere)
    linked.symlink_to(tmp_path / "nowhere" if broken else elsewhere)
    before = contents(tmp_path)
    with pytest.raises(FileSystemError, match="is a link to"):
        archive(paths, nothing)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"outputs": null}', '{"outputs": [7]}', '{"outputs": [{}]}'])
def test_a_result_record_that_is_none_stops_archiving(paths: SessionPaths, text: str) -> None:
    prepare(paths, nothing)
    process(paths)
    (paths.tracking_data / "results").mkdir()
    (paths.tracking_data / "results" / "BEHAVIOR.json").write_text(text)
    before = contents(paths.working_directory)
    with pytest.raises(FileSystemError, match=r"BEHAVIOR\.json is no result record"):
        archive(paths, nothing)
    assert contents(paths.working_directory) == before
    assert not paths.archived_data.exists()


def test_what_a_copy_would_lose_is_refused(paths: SessionPaths) -> None:
    prepare(paths, nothing)
    process(paths)
    (paths.processed_data / "broken link").symlink_to("nowhere")
    with pytest.raises(FileSystemError, match="broken link"):
        archive(paths, nothing)
    assert (paths.processed_data / "broken link").is_symlink()


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small volume needs root: run the tests with sudo")
    directory = tmp_path / "working"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(directory)], check=False)
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_volume_without_room_is_refused_before_anything_is_copied(tmp_path: Path, small_volume: Path) -> None:
    paths = session(tmp_path)
    (small_volume / "other").write_bytes(bytes((80 << 20) - 100_000))
    with pytest.raises(FileSystemError, match=r"0\.1 MB free, and 1\.\d MB are needed"):
        prepare(paths, nothing)
    assert [path.name for path in small_volume.iterdir()] == ["other"]


def test_room_for_what_was_archived_is_looked_for_before_the_recording_is_copied(
    tmp_path: Path, small_volume: Path
) -> None:
    paths = session(tmp_path)
    paths.archived_data.mkdir()
    (paths.archived_data / "results").write_bytes(bytes(60 << 20))
    (small_volume / "other").write_bytes(bytes(30 << 20))
    with pytest.raises(FileSystemError, match="MB free"):
        prepare(paths, nothing)
    assert [path.name for path in small_volume.iterdir()] == ["other"]


def test_a_volume_that_fills_up_meanwhile_is_left_as_it_was(
    tmp_path: Path, small_volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = session(tmp_path)
    (small_volume / "other").write_bytes(bytes((80 << 20) - 40_000))
    monkeypatch.setattr(copying.shutil, "disk_usage", lambda _path: SimpleNamespace(free=1 << 30))
    with pytest.raises(FileSystemError, match=r"No space left on device\. The original and the destination are unch"):
        prepare(paths, nothing)
    assert list(paths.working_directory.iterdir()) == []


@pytest.mark.parametrize("volume", ["storage", "working"])
def test_a_read_only_volume_is_left_as_it_was_and_so_is_the_other(tmp_path: Path, volume: str) -> None:
    paths = session(tmp_path)
    if volume == "storage":
        prepare(paths, nothing)
        process(paths)
    root = str(tmp_path / volume)
    if os.geteuid() != 0 or subprocess.run(["mount", "--bind", root, root], check=False).returncode:
        pytest.skip("a volume cannot be made read-only here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", root], check=True)
        before = contents(tmp_path)
        with pytest.raises(FileSystemError, match="Read-only file system"):
            (archive if volume == "storage" else prepare)(paths, nothing)
        assert contents(tmp_path) == before
    finally:
        subprocess.run(["umount", root], check=True)
