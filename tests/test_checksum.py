"""The checksum of raw_data: 5.1.0's, verified, and three failures that are told apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.checksum import directory_checksum, regenerate, verify
from tests.conftest import SESSION, make_session
from trackers.errors import FileSystemError, JobFailedError, SessionDataError, SessionLockedError
from trackers.layout import SessionPaths, Volumes
from trackers.lock import SessionLock

FIXTURE = Path(__file__).parent / "data" / "checksum"


@pytest.fixture
def paths(tmp_path: Path) -> SessionPaths:
    raw_data = make_session(tmp_path / "storage") / "raw_data"
    (raw_data / "behavior_data").mkdir()
    for number in range(200):
        (raw_data / "behavior_data" / f"{number} ä.npz").write_bytes(os.urandom(1000 + number))
    (raw_data / "empty").touch()
    (raw_data.parent / "tracking_data").mkdir()
    (tmp_path / "working").mkdir()
    found = SessionPaths(Volumes(tmp_path / "storage", tmp_path / "working"), "Project", "305", SESSION)
    regenerate(found)
    return found


def test_the_checksum_is_the_one_that_5_1_0_makes() -> None:
    assert directory_checksum(FIXTURE / "tree") == json.loads((FIXTURE / "expected.json").read_text())["tree"]


def test_the_marker_files_do_not_count_at_any_level(paths: SessionPaths) -> None:
    before = directory_checksum(paths.raw_data)
    (paths.raw_data / "behavior_data" / "ubiquitin.bin").write_bytes(b"x")
    (paths.raw_data / "nk.bin").write_bytes(b"x")
    assert directory_checksum(paths.raw_data) == before
    (paths.raw_data / "empty").rename(paths.raw_data / "empty2")
    assert directory_checksum(paths.raw_data) != before


def test_a_file_name_that_is_no_unicode_counts(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff\xfe.bin")).write_bytes(b"x")
    assert len(directory_checksum(tmp_path)) == 32


def test_a_mismatch_names_the_files_that_changed_are_missing_and_are_new(paths: SessionPaths) -> None:
    behavior = paths.raw_data / "behavior_data"
    content = bytearray((behavior / "7 ä.npz").read_bytes())
    content[500] ^= 1
    (behavior / "7 ä.npz").write_bytes(content)
    (behavior / "8 ä.npz").unlink()
    (behavior / "extra").touch()
    with pytest.raises(JobFailedError) as caught:
        verify(paths)
    for words in ("changed: 'behavior_data/7 ä.npz'", "missing: 'behavior_data/8 ä.npz'", "new: 'behavior_data/extra'"):
        assert words in str(caught.value)


def test_a_mismatch_that_was_never_right_here_says_so(paths: SessionPaths) -> None:
    (paths.tracking_data / "raw_data_digests.json").unlink()
    (paths.raw_data / "ax_checksum.txt").write_text("0" * 32)
    with pytest.raises(JobFailedError, match="never been right on this server"):
        verify(paths)


def test_a_changed_checksum_file_is_not_called_a_change_of_the_data(paths: SessionPaths) -> None:
    (paths.raw_data / "ax_checksum.txt").write_text("0" * 32)
    with pytest.raises(JobFailedError, match=r"no file changed, but ax_checksum\.txt itself did"):
        verify(paths)


def test_a_checksum_is_not_written_anew_by_one_that_lost_the_session_meanwhile(paths: SessionPaths) -> None:
    def lost() -> None:
        raise SessionLockedError("somebody else works on it")

    before = (paths.raw_data / "ax_checksum.txt").read_bytes()
    (paths.raw_data / "empty").write_text("not any more")
    with pytest.raises(SessionLockedError):
        regenerate(paths, check=lost)
    assert (paths.raw_data / "ax_checksum.txt").read_bytes() == before


def test_a_missing_checksum_file_is_a_failure_of_its_own(paths: SessionPaths) -> None:
    (paths.raw_data / "ax_checksum.txt").unlink()
    with pytest.raises(SessionDataError, match=r"ax_checksum\.txt is missing"):
        verify(paths)


@pytest.mark.parametrize("text", ["", "no checksum", "F" * 32, "0" * 31])
def test_a_checksum_file_with_something_else_is_refused(paths: SessionPaths, text: str) -> None:
    (paths.raw_data / "ax_checksum.txt").write_text(text)
    with pytest.raises(SessionDataError, match="no checksum"):
        verify(paths)


def test_an_unreadable_file_is_a_failure_of_its_own(paths: SessionPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.readv

    def broken(descriptor: int, buffers: list[memoryview]) -> int:
        if "17 ä" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(5, "Input/output error")
        return real(descriptor, buffers)

    monkeypatch.setattr(os, "readv", broken)
    with pytest.raises(FileSystemError, match=r"17 ä.npz cannot be read: Input/output error"):
        verify(paths)


def _program(paths: SessionPaths, manager_id: int) -> subprocess.CompletedProcess[str]:
    volumes = ["--storage", str(paths.volumes.storage), "--working", str(paths.volumes.working)]
    names = ["--project", "Project", "--animal", "305", "--session", SESSION, "--manager-id", str(manager_id)]
    command = [sys.executable, "-P", "-m", "jobs.checksum", *volumes, *names]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_program_works_for_the_locks_owner_only_and_says_one_sentence(paths: SessionPaths) -> None:
    refused = _program(paths, 5)
    assert refused.returncode == 1
    assert "is not locked by anybody" in refused.stderr
    SessionLock(paths.lock).acquire(5)
    assert _program(paths, 5).returncode == 0
    assert "progress" in _program(paths, 5).stdout
    (paths.raw_data / "empty").write_text("not any more")
    failed = _program(paths, 5)
    assert failed.returncode == 1
    assert "'empty'" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1
