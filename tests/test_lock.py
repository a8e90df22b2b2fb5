"""The session lock: who holds it, who may take it, and what happens when its two files disagree."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from trackers.errors import SessionLockedError, StaleLeaseError, TrackerCorruptError
from trackers.files import atomic_write
from trackers.lock import Holder, SessionLock
from trackers.processes import ProcessIdentity

DATA = Path(__file__).parent / "data" / "trackers"
FIRST, SECOND = 9307135271463183218, 1174839274652839471


@pytest.fixture
def lock(tmp_path: Path) -> SessionLock:
    return SessionLock(tmp_path / "2025-08-26-18-30-15-123456" / "tracking_data" / "session_lock.yaml")


def test_taking_and_releasing_writes_what_the_reference_writes(lock: SessionLock) -> None:
    lock.acquire(FIRST)
    assert lock.file_path.read_bytes() == (DATA / "lock_held.yaml").read_bytes()
    lock.release(FIRST)
    assert lock.file_path.read_bytes() == (DATA / "lock_free_released.yaml").read_bytes()
    assert lock.read().free
    assert not lock.holder_path.exists()


def test_reading_a_missing_lock_creates_nothing(lock: SessionLock) -> None:
    assert lock.read().free
    with pytest.raises(SessionLockedError, match="not locked by anybody"):
        lock.check_owner(FIRST)
    assert not lock.file_path.exists()


def test_a_second_manager_is_refused_and_told_who_holds_the_lock(lock: SessionLock) -> None:
    holder = Holder(
        FIRST,
        host="manager-pc",
        user="ivan",
        requested_by="anna",
        flow_run_id="8d7f",
        flow_run_name="behavior of 305",
        pipeline="behavior processing",
    )
    lock.acquire(FIRST, holder)
    before = lock.file_path.read_bytes(), lock.holder_path.read_bytes()
    for call in (lock.acquire, lock.release, lock.check_owner):
        with pytest.raises(SessionLockedError) as refusal:
            call(SECOND)
        text = str(refusal.value)
        for fact in (str(FIRST), "manager-pc", "ivan", "anna", "8d7f", "behavior processing", holder.since):
            assert fact in text
        assert "sessionflow lock release" in text
    assert (lock.file_path.read_bytes(), lock.holder_path.read_bytes()) == before


def test_the_same_manager_may_take_it_again_and_its_older_process_is_refused(lock: SessionLock) -> None:
    first = lock.acquire(FIRST)
    second = lock.acquire(FIRST)
    assert first.incarnation != second.incarnation
    lock.check_owner(FIRST)
    with pytest.raises(StaleLeaseError):
        lock.check_incarnation(first.incarnation)
    with pytest.raises(StaleLeaseError):
        lock.release(FIRST, first.incarnation)
    assert lock.check_incarnation(second.incarnation).manager_id == FIRST
    lock.release(FIRST, second.incarnation)
    assert lock.read().free


def test_a_dead_owner_is_replaced_only_if_nobody_was_faster(lock: SessionLock) -> None:
    lock.acquire(FIRST)
    seen = lock.read()
    lock.take_over(seen, Holder(SECOND))
    assert lock.read().manager_id == SECOND
    with pytest.raises(SessionLockedError, match="changed hands"):
        lock.take_over(seen, Holder(FIRST))
    assert lock.read().manager_id == SECOND


@pytest.mark.parametrize("again", [SECOND, 7])
def test_a_taking_that_was_cut_short_leaves_the_dead_owners_details_and_can_be_done_again(
    lock: SessionLock, monkeypatch: pytest.MonkeyPatch, again: int
) -> None:
    dead = lock.acquire(FIRST, Holder(FIRST, user="ada", submissions=("behavior/0001",)))
    seen = lock.read()

    def killed(path: Path, content: bytes, **options: bool) -> None:
        if path == lock.file_path:
            raise KeyboardInterrupt
        atomic_write(path, content, **options)

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr("trackers.lock.atomic_write", killed)
            with pytest.raises(KeyboardInterrupt):
                lock.take_over(seen, Holder(SECOND))
        assert lock.read() == seen
        assert lock.check_incarnation(dead.incarnation) == dead
    lock.take_over(seen, Holder(again))
    holder = lock.read().holder
    assert holder is not None
    assert (lock.read().manager_id, holder.manager_id) == (again, again)


def test_a_holder_file_of_another_manager_is_noticed_and_not_believed(lock: SessionLock) -> None:
    lock.acquire(SECOND, Holder(SECOND, user="wrong-person"))
    shutil.copy(DATA / "lock_held.yaml", lock.file_path)  # as a 5.1.0 manager does, which knows no holder file
    state = lock.read()
    assert (state.manager_id, state.holder) == (FIRST, None)
    assert str(SECOND) in state.contradiction
    assert "wrong-person" not in state.describe()


def test_an_unreadable_holder_file_does_not_free_the_lock(lock: SessionLock) -> None:
    lock.acquire(FIRST)
    lock.holder_path.write_bytes(b"\x00garbage")
    assert lock.read().manager_id == FIRST
    assert "cannot be read" in lock.read().describe()
    lock.release(FIRST)
    assert lock.read().free


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"_manager_id: hello", b"_manager_id: true"])
def test_a_corrupt_lock_is_named_and_kept_until_it_is_forced(lock: SessionLock, content: bytes) -> None:
    lock.acquire(FIRST)
    lock.file_path.write_bytes(content)
    for call in (lock.acquire, lock.release, lock.check_owner):
        with pytest.raises(TrackerCorruptError, match="lock release"):
            call(FIRST)
    assert lock.file_path.read_bytes() == content
    lock.force_release()
    assert lock.read().free


def test_a_lock_file_that_was_cut_off_anywhere_is_corrupt(lock: SessionLock) -> None:
    lock.acquire(FIRST)
    whole = lock.file_path.read_bytes()
    for length in range(len(whole)):
        lock.file_path.write_bytes(whole[:length])
        if whole[length:] in (b"\n", b"...\n"):
            assert lock.read().manager_id == FIRST  # only the end mark is missing
        else:
            with pytest.raises(TrackerCorruptError):
                lock.read()


@pytest.mark.parametrize("content", [b"[" * 100_000, b"7", b'{"manager_id": "x"}', b'{"manager_id": 7, "process": {}}'])
def test_a_foreign_holder_file_does_not_free_the_lock(lock: SessionLock, content: bytes) -> None:
    lock.acquire(FIRST)
    lock.holder_path.write_bytes(content)
    state = lock.read()
    assert (state.manager_id, state.holder) == (FIRST, None)
    assert state.contradiction


def test_details_can_be_changed_by_the_holding_incarnation_only(lock: SessionLock) -> None:
    holder = lock.acquire(FIRST)
    lock.update(holder.incarnation, submissions=("behavior/0001",), abandoned="the server could not be asked")
    state = lock.read()
    assert state.holder == replace(holder, submissions=("behavior/0001",), abandoned="the server could not be asked")
    with pytest.raises(StaleLeaseError):
        lock.update("another", abandoned="")


def _try_to_take(arguments: tuple[Path, int]) -> int:
    path, manager_id = arguments
    try:
        SessionLock(path).acquire(manager_id)
    except SessionLockedError:
        return 0
    return manager_id


def test_of_many_managers_at_once_exactly_one_gets_it(lock: SessionLock) -> None:
    with ProcessPoolExecutor(8) as pool:
        for _ in range(10):
            winners = [m for m in pool.map(_try_to_take, [(lock.file_path, i) for i in range(1, 17)]) if m]
            assert winners == [lock.read().manager_id]
            lock.force_release()


def test_a_process_is_known_by_boot_pid_and_start_time() -> None:
    me = ProcessIdentity.of_this_process()
    assert me.gone() is False
    assert replace(me, start_time=me.start_time + 1).gone() is True
    assert replace(me, boot_id="an-earlier-boot").gone() is True
    assert replace(me, host="another-host").gone() is None
