"""The processing tracker against the files that sl-shared-assets 5.1.0 wrote, and against what may go wrong."""

import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from trackers.errors import FileSystemError, LockTimeoutError, TrackerCorruptError, TrackerOwnedError
from trackers.tracker import FRESH, ProcessingTracker

DATA = Path(__file__).parent / "data" / "trackers"
NAME = "behavior_processing_tracker.yaml"
FIRST, SECOND = 9307135271463183218, 1174839274652839471


@pytest.fixture
def tracker(tmp_path: Path) -> ProcessingTracker:
    return ProcessingTracker(tmp_path / NAME)


def written_by_reference(name: str) -> bytes:
    return (DATA / f"tracker_{name}.yaml").read_bytes()


def load(tracker: ProcessingTracker, name: str) -> None:
    shutil.copy(DATA / f"tracker_{name}.yaml", tracker.file_path)


def test_an_unknown_file_name_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no tracker"):
        ProcessingTracker(tmp_path / "my_tracker.yaml")


def test_a_missing_file_reads_as_fresh_and_stays_missing(tracker: ProcessingTracker) -> None:
    assert (tracker.is_running, tracker.is_complete, tracker.encountered_error) == (False, False, False)
    assert not tracker.file_path.exists()


@pytest.mark.parametrize(
    ("name", "running", "complete", "error"),
    [
        ("fresh", False, False, False),
        ("running_one_job", True, False, False),
        ("running_three_jobs", True, False, False),
        ("complete", False, True, False),
        ("error", False, False, True),
        ("aborted_after_error", False, False, False),
        ("restarted_after_complete", True, False, False),
    ],
)
def test_files_of_the_reference_are_read(
    tracker: ProcessingTracker, name: str, running: bool, complete: bool, error: bool
) -> None:
    load(tracker, name)
    assert (tracker.is_running, tracker.is_complete, tracker.encountered_error) == (running, complete, error)


def test_start_stop_error_and_abort_write_what_the_reference_writes(tracker: ProcessingTracker) -> None:
    tracker.start(FIRST)
    assert tracker.file_path.read_bytes() == written_by_reference("running_one_job")
    tracker.stop(FIRST)
    assert tracker.file_path.read_bytes() == written_by_reference("complete")
    tracker.start(SECOND, job_count=3)
    assert tracker.file_path.read_bytes() == written_by_reference("restarted_after_complete")
    tracker.abort()
    assert tracker.file_path.read_bytes() == written_by_reference("aborted_while_running")
    tracker.start(FIRST, job_count=3)
    tracker.error(FIRST)
    assert tracker.file_path.read_bytes() == written_by_reference("error")


def test_the_last_stop_completes_whichever_process_calls_it(tracker: ProcessingTracker) -> None:
    tracker.start(FIRST, job_count=3)
    for done in (1, 2):
        ProcessingTracker(tracker.file_path).stop(FIRST)
        assert tracker.read().completed_jobs == done
        assert tracker.is_running
    ProcessingTracker(tracker.file_path).stop(FIRST)
    assert tracker.file_path.read_bytes() == written_by_reference("after_three_of_three_stops_same_instance")


def test_starting_as_the_running_manager_changes_nothing(tracker: ProcessingTracker) -> None:
    tracker.start(FIRST, job_count=3)
    tracker.stop(FIRST)
    before = tracker.file_path.read_bytes()
    tracker.start(FIRST, job_count=5)
    assert tracker.file_path.read_bytes() == before


@pytest.mark.parametrize("call", ["start", "stop", "error"])
def test_another_manager_is_refused_and_both_are_named(tracker: ProcessingTracker, call: str) -> None:
    tracker.start(FIRST, job_count=3)
    before = tracker.file_path.read_bytes()
    with pytest.raises(TrackerOwnedError) as refusal:
        getattr(tracker, call)(SECOND)
    assert str(FIRST) in str(refusal.value)
    assert str(SECOND) in str(refusal.value)
    assert tracker.file_path.read_bytes() == before


@pytest.mark.parametrize("call", ["stop", "error"])
@pytest.mark.parametrize("state", ["fresh", "complete", "error"])
def test_ending_what_does_not_run_changes_nothing(tracker: ProcessingTracker, call: str, state: str) -> None:
    load(tracker, state)
    before = tracker.file_path.read_bytes()
    getattr(tracker, call)(FIRST)
    assert tracker.file_path.read_bytes() == before


def test_a_restart_begins_a_fresh_count(tracker: ProcessingTracker) -> None:
    tracker.start(FIRST, job_count=2)
    tracker.stop(FIRST)
    tracker.error(FIRST)
    tracker.start(SECOND, job_count=2)
    tracker.stop(SECOND)
    assert tracker.is_running


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"---\n...\n",
        bytes(range(256)),
        b"- a\n- list\n",
        b"just text",
        b"{",
        written_by_reference("complete").replace(b"_job_count: 1", b"_job_count: three"),
        written_by_reference("complete").replace(b"_manager_id: -1", b"_manager_id: '12'"),
        written_by_reference("complete").replace(b"_running: false", b"_running: 1"),
        written_by_reference("complete").replace(b"_complete: true\n", b""),
        b"a: &a [*a]",
        written_by_reference("complete").replace(b"_running: false", b"_running: !!bool perhaps"),
        written_by_reference("complete").replace(b"-1", b"!!int ''"),
        written_by_reference("complete").replace(b"-1", b"!!timestamp now"),
        written_by_reference("complete").replace(b"_completed_jobs: 1\n...\n", b"_completed_jobs: 1"),
    ],
)
def test_a_corrupt_file_is_named_kept_and_only_abort_replaces_it(tracker: ProcessingTracker, content: bytes) -> None:
    tracker.file_path.write_bytes(content)
    for call in (lambda: tracker.start(FIRST), lambda: tracker.stop(FIRST), lambda: tracker.is_complete):
        with pytest.raises(TrackerCorruptError, match="tracker reset") as error:
            call()
        assert str(tracker.file_path) in str(error.value)
        assert tracker.file_path.read_bytes() == content
    tracker.abort()
    assert tracker.read() == FRESH


@pytest.mark.parametrize("name", ["restarted_after_complete", "after_two_of_three_stops_one_instance_per_job"])
def test_a_file_that_was_cut_off_anywhere_is_corrupt(tracker: ProcessingTracker, name: str) -> None:
    whole = written_by_reference(name).replace(b"_jobs: 1", b"_jobs: 12").replace(b"_count: 3", b"_count: 30")
    tracker.file_path.write_bytes(whole)
    state = tracker.read()
    for length in range(len(whole)):
        tracker.file_path.write_bytes(whole[:length])
        if whole[length:] in (b"\n", b"...\n"):
            assert tracker.read() == state  # only the end mark is missing
        else:
            with pytest.raises(TrackerCorruptError):
                tracker.read()


def test_a_file_of_5_0_without_counts_is_read(tracker: ProcessingTracker) -> None:
    counts = b"_job_count: 1\n_completed_jobs: 0\n"
    tracker.file_path.write_bytes(written_by_reference("running_one_job").replace(counts, b""))
    assert tracker.is_running


def test_reading_a_corrupt_file_leaves_no_other_file_behind(tracker: ProcessingTracker) -> None:
    tracker.file_path.write_bytes(b"")
    with pytest.raises(TrackerCorruptError):
        tracker.read()
    assert list(tracker.file_path.parent.iterdir()) == [tracker.file_path]


def test_the_error_gives_the_command_that_resets_the_file(tmp_path: Path) -> None:
    session = tmp_path / "Project" / "Mouse 7" / "2025-08-26-18-30-15-123456"
    (session / "tracking_data").mkdir(parents=True)
    for path, command in (
        (session / "tracking_data" / NAME, f"sessionflow tracker reset '{session}' behavior"),
        (
            tmp_path / "Project" / "manifest_generation_tracker.yaml",
            f"sessionflow tracker reset Project manifest --storage {tmp_path}",
        ),
    ):
        path.write_bytes(b"")
        with pytest.raises(TrackerCorruptError) as error:
            ProcessingTracker(path).read()
        assert str(error.value).endswith(command)


def test_nested_nonsense_is_refused_and_shown_in_short(tracker: ProcessingTracker) -> None:
    levels = [f"{c}: &{c} [{', '.join([f'*{chr(ord(c) - 1)}'] * 9)}]\n" for c in "bcdefghij"]
    content = written_by_reference("complete").decode().replace("_complete: true", "_complete: *j")
    tracker.file_path.write_text("a: &a [x, x]\n" + "".join(levels) + content.removeprefix("---\n"))
    with pytest.raises(TrackerCorruptError, match="_complete is"):
        tracker.read()


def test_what_is_no_file_is_said_in_one_sentence(tracker: ProcessingTracker) -> None:
    tracker.file_path.mkdir()
    for call in (lambda: tracker.is_running, lambda: tracker.start(FIRST), tracker.abort):
        with pytest.raises(FileSystemError, match="Is a directory"):
            call()


@pytest.mark.parametrize("manager_id", [-1, 2**64, "7", True, 1.5])
def test_what_is_no_manager_id_is_refused(tracker: ProcessingTracker, manager_id: object) -> None:
    with pytest.raises(ValueError, match="no manager id"):
        tracker.start(manager_id)  # type: ignore[arg-type]
    assert not tracker.file_path.exists()


def test_a_lock_that_stays_taken_is_a_timeout_that_names_the_file(
    tracker: ProcessingTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(60)"
    )
    lock = f"{tracker.file_path}.lock"
    with subprocess.Popen([sys.executable, "-c", holder, lock], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        monkeypatch.setattr("trackers.files.LOCK_TIMEOUT_SECONDS", 0.3)
        with pytest.raises(TimeoutError, match=f"{NAME}.lock") as error:
            tracker.start(FIRST)
        assert isinstance(error.value, LockTimeoutError)
        process.kill()


def _one_job(path: Path) -> None:
    tracker = ProcessingTracker(path)
    tracker.start(FIRST, job_count=40)
    tracker.stop(FIRST)


def test_forty_processes_at_once_are_all_counted(tracker: ProcessingTracker) -> None:
    tracker.start(FIRST, job_count=41)
    with ProcessPoolExecutor(8) as pool:
        list(pool.map(_one_job, [tracker.file_path] * 40))
    assert tracker.read().completed_jobs == 40
    tracker.stop(FIRST)
    assert tracker.is_complete
