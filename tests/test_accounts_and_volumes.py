"""Two accounts of one group on one tree; volumes that are full, read-only, or cannot lock."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pytest

from tests.conftest import SESSION, Side, all_ended, make_session
from trackers import files
from trackers.errors import FileSystemError, LockTimeoutError
from trackers.graph import Graph, Job, Stage
from trackers.lock import SessionLock
from trackers.names import ProcessingPipelines
from trackers.processes import this_account
from trackers.shares import CoreShares, is_held, try_lock
from trackers.site import Site
from trackers.submission import SubmissionFolder
from trackers.targets import Target
from trackers.tracker import ProcessingTracker
from trackers.work import Work

NAME = "checksum_resolution_tracker.yaml"
GROUP, ANNA, BEN = 4242, 4243, 4244
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="other accounts and mounts need root: run with sudo")


def as_account(user: int, group: int, work: Callable[[], object]) -> str:
    """Do something as another account, with the usual umask; return the error's text, empty where there was none."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()  # a new program could not read a Python that lies in another account's home
        if child == 0:
            try:
                os.umask(0o022)
                os.setgroups([])
                os.setgid(group)
                os.setuid(user)
                this_account.cache_clear()
                work()
            except BaseException as error:
                said.write(f"{type(error).__name__}: {error}")
                said.flush()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        return said.read() if status else ""


def let_others_through(tmp_path: Path) -> None:
    """Let every account reach a test's folder."""
    for directory in (tmp_path, *tmp_path.parents[:-1]):
        if directory.stat().st_uid == os.geteuid() and directory not in (Path("/tmp"), Path("/")):
            directory.chmod(directory.stat().st_mode | stat.S_IXOTH | stat.S_IXGRP)


@pytest.fixture
def shared_tree(tmp_path: Path) -> Path:
    """A session in folders that belong to a group, which may write, as nobody else may."""
    let_others_through(tmp_path)
    session = make_session(tmp_path / "storage")
    for directory in [tmp_path / "storage", *(tmp_path / "storage").rglob("*")]:
        os.chown(directory, ANNA, GROUP)
        directory.chmod(0o2770 if directory.is_dir() else 0o660)
    return session


@needs_root
def test_two_accounts_of_a_group_use_the_same_tracker_and_lock(shared_tree: Path) -> None:
    tracker = ProcessingTracker(shared_tree / "tracking_data" / NAME)
    lock = SessionLock(shared_tree / "tracking_data" / "session_lock.yaml")
    submissions = SubmissionFolder(shared_tree / "tracking_data" / "submissions" / "checksum")

    def begin(manager_id: int) -> None:
        lock.acquire(manager_id)
        tracker.start(manager_id)
        with submissions.lock():
            pass

    def end() -> None:
        with submissions.lock():
            tracker.stop(1)
        lock.release(1)

    assert as_account(ANNA, GROUP, lambda: begin(1)) == ""
    assert as_account(BEN, GROUP, end) == ""
    assert as_account(BEN, GROUP, lambda: begin(2)) == ""
    assert as_account(ANNA, GROUP, lambda: (tracker.abort(), lock.force_release())) == ""
    for path in (shared_tree / "tracking_data").rglob("*"):
        assert path.stat().st_gid == GROUP
        assert path.stat().st_mode & stat.S_IWGRP


@needs_root
def test_a_lock_file_that_only_its_owner_may_write_is_taken_all_the_same(
    shared_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOCK_TIMEOUT_SECONDS", 0.3)
    tracker = ProcessingTracker(shared_tree / "tracking_data" / NAME)
    assert as_account(ANNA, GROUP, lambda: tracker.start(1)) == ""
    lock = Path(f"{tracker.file_path}.lock")
    lock.chmod(0o644)  # as the filelock of 5.1.0's time does whenever the owner takes it
    assert as_account(BEN, GROUP, lambda: tracker.stop(1)) == ""
    assert tracker.is_complete
    with filelock.FileLock(lock):
        assert LockTimeoutError.__name__ in as_account(BEN, GROUP, lambda: tracker.start(2))
    held = os.open(lock, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert LockTimeoutError.__name__ in as_account(ANNA, GROUP, lambda: tracker.start(2))
    os.close(held)
    assert as_account(BEN, GROUP, lambda: tracker.start(2)) == ""


@needs_root
def test_an_account_that_may_only_read_is_told_what_is_wrong_with_a_corrupt_file(shared_tree: Path) -> None:
    tracker = ProcessingTracker(shared_tree / "tracking_data" / NAME)
    tracker.start(1)
    tracker.file_path.write_bytes(b"")
    for path in (shared_tree / "tracking_data").iterdir():
        path.chmod(0o644)
    for directory in (shared_tree / "tracking_data", shared_tree, *list(shared_tree.parents)[:3]):
        directory.chmod(0o755)
    Path(f"{tracker.file_path}.lock").chmod(0o600)
    assert "it is empty" in as_account(9999, 9999, tracker.read)
    tracker.file_path.chmod(0o600)
    assert "Permission denied. Nothing was changed" in as_account(9999, 9999, tracker.read)


@needs_root
def test_two_accounts_of_a_group_share_the_cores_of_one_working_root(shared_tree: Path) -> None:
    cores = shared_tree / "cores"  # in a folder of the group

    def run_a_job() -> None:
        shares = CoreShares(cores)
        taken = shares.collect(10_000)
        assert taken is not None
        for descriptor in taken:
            os.close(descriptor)
        assert not is_held(cores / "core.0")

    for account in (ANNA, BEN, ANNA):
        assert as_account(account, GROUP, run_a_job) == ""
    assert all(path.stat().st_mode & stat.S_IWGRP for path in cores.iterdir())
    held = try_lock(cores / "core.0")
    assert held is not None
    assert AssertionError.__name__ in as_account(BEN, GROUP, run_a_job)
    os.close(held)


@needs_root
def test_an_account_is_known_by_the_system_and_not_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "root")
    daemon = pwd.getpwnam("daemon")

    def check() -> None:
        assert this_account() == "daemon"

    assert as_account(daemon.pw_uid, daemon.pw_gid, check) == ""


@needs_root
def test_the_jobs_of_another_account_are_neither_ended_nor_their_record_changed(side: Side) -> None:
    side.take_lock()
    view = side.submit([("long", "sleep 30")])
    view = side.wait(view, lambda v: v["jobs"][0]["state"] == "RUNNING")
    let_others_through(side.root)
    for path in side.root.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    work = Work(Target.from_json(Site.from_json(side.arguments["site"]), side.arguments), ProcessingPipelines.BEHAVIOR)
    before = work.folder.read(view["number"])
    refusal = as_account(BEN, GROUP, lambda: work.cancel(view["number"]))
    assert "run under the account root" in refusal
    assert work.folder.read(view["number"]) == before
    assert work.cancel(view["number"])


@needs_root
def test_an_account_outside_the_group_is_refused_in_words(shared_tree: Path) -> None:
    tracker = ProcessingTracker(shared_tree / "tracking_data" / NAME)
    assert "may not be written by this account" in as_account(9999, 9999, lambda: tracker.start(1))
    assert not tracker.file_path.exists()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_flock_is_refused_and_no_soft_lock_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(FileSystemError, match="without flock"):
        ProcessingTracker(tmp_path / NAME).start(1)
    assert not (tmp_path / NAME).exists()
    assert (tmp_path / f"{NAME}.lock").stat().st_size == 0


def test_jobs_are_not_started_where_the_working_volume_has_no_flock(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def refuse(descriptor: int, operation: int) -> None:
        if "/working/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        flock(descriptor, operation)

    side.take_lock()
    monkeypatch.setattr(fcntl, "flock", refuse)
    graph = Graph((Stage("only", (Job("job", ("true",)),)),))
    reply = side.ask("submit", pipeline="BEHAVIOR", graph=graph.to_json(), manager_id=side.manager_id)
    assert "without flock" in reply["error"]["message"]
    assert list((side.root / "storage").rglob("supervisor.log")) == []


@needs_root
def test_what_is_created_below_our_folders_keeps_the_group(tmp_path: Path) -> None:
    os.chown(tmp_path, -1, GROUP)
    tmp_path.chmod(0o770)  # a tree without the group bit on its folders
    files.make_directory(tmp_path / "submissions" / "behavior")
    (tmp_path / "submissions" / "behavior" / "output.log").touch()
    assert {path.stat().st_gid for path in tmp_path.rglob("*")} == {GROUP}
    tmp_path.chmod(0o750)
    files.make_directory(tmp_path / "of one account")
    assert not (tmp_path / "of one account").stat().st_mode & (stat.S_ISGID | stat.S_IWGRP)


def test_a_program_that_uses_filelock_as_5_1_0_does_is_waited_for(tmp_path: Path) -> None:
    tracker = ProcessingTracker(tmp_path / NAME)
    program = (
        "from pathlib import Path; from trackers.files import locked\n"
        f"with locked(Path({str(tmp_path / NAME)!r}), 0.3): pass"
    )
    with filelock.FileLock(tmp_path / f"{NAME}.lock"):
        waited = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert LockTimeoutError.__name__ in waited.stderr
    tracker.start(1)
    assert tracker.is_running


@pytest.fixture(params=["full", "read-only"])
def bad_volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root: run with sudo")
    volume = tmp_path / "volume"
    volume.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(volume)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    tracking_data = make_session(volume / "storage") / "tracking_data"
    tracking_data.mkdir()
    (volume / "working").mkdir()
    ProcessingTracker(tracking_data / NAME).start(1)
    SessionLock(tracking_data / "session_lock.yaml").acquire(1)
    if request.param == "full":
        with (volume / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(volume)], check=True)
    yield volume
    subprocess.run(["umount", str(volume)], check=True)


def test_a_full_or_read_only_volume_is_said_and_what_stood_there_stays(bad_volume: Path) -> None:
    tracking_data = bad_volume / "storage" / "Project" / "305" / SESSION / "tracking_data"
    tracker = ProcessingTracker(tracking_data / NAME)
    lock = SessionLock(tracking_data / "session_lock.yaml")
    before = {path.name: path.read_bytes() for path in tracking_data.iterdir()}
    calls: list[Callable[[], object]] = [
        lambda: tracker.stop(1),
        tracker.abort,
        lambda: lock.release(1),
        lock.force_release,
    ]
    for call in calls:
        with pytest.raises(FileSystemError, match=r"No space left|Read-only file system"):
            call()
    assert {path.name: path.read_bytes() for path in tracking_data.iterdir()} == before
    side = Side(bad_volume)
    assert side.ask("lock_acquire", holder={"manager_id": 2}, wish={})["error"]["exit_code"] in (1, 3)


def test_a_full_volume_lets_jobs_fail_with_the_reason(side: Side) -> None:
    side.take_lock()
    view = side.submit([("writer", "echo no space left on device >&2; exit 28")])
    view = side.wait(view, all_ended)
    assert "no space left on device" in view["jobs"][0]["tail"][-1]
