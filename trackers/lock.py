"""The lock of a session or dataset: the one manager that works on it, and who that is."""

from __future__ import annotations

import json
import os
import re
import reprlib
import socket
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trackers.commands import on_session
from trackers.errors import FileSystemError, SessionLockedError, StaleLeaseError, TrackerCorruptError
from trackers.files import atomic_write, locked, parse_yaml, read_file, read_settled, refuse_cut_off
from trackers.layout import DATASET_LOCK
from trackers.manager import MAXIMUM_MANAGER_ID, NOBODY, validate_manager_id
from trackers.processes import ProcessIdentity, this_account

_TEXT = "---\nfile_path: null\n_manager_id: {}\n_lock_path: null\n...\n"
_PATTERN = re.compile(_TEXT.replace(".", "[.]").format("(-1|[0-9]{1,20})").encode())
_KEYS = ("file_path", "_manager_id", "_lock_path")


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. Every claim is the holder's own; `requested_by` is not verified.

    Attributes:
        incarnation: random; each process that takes the lock writes its own, and older ones are refused from then on.
        process: the process that took it, on `host`; asked whether it lives only on that host.
        prefect_api: the API that knows the flow run, empty for a temporary server.
        target: what it works on; of a session that is held for a dataset, the dataset.
        datasets: of such a session, the folder in which that dataset lies.
        submissions: the records of jobs that may outlive the process, as `PIPELINE/NUMBER`.
        since: UTC, ISO 8601.
        abandoned: why the flow ended without giving the lock back; empty while it works.
    """

    manager_id: int
    incarnation: str = field(default_factory=lambda: os.urandom(8).hex())
    host: str = field(default_factory=socket.gethostname)
    user: str = field(default_factory=this_account)
    requested_by: str = ""
    flow_run_id: str = ""
    flow_run_name: str = ""
    prefect_api: str = ""
    pipeline: str = ""
    target: str = ""
    datasets: str = ""
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    process: ProcessIdentity | None = None
    submissions: tuple[str, ...] = ()
    abandoned: str = ""

    def describe(self) -> str:
        """Return one sentence that says who this is, for people."""
        parts = [f"manager {self.manager_id}", f"on host {self.host}", f"as user {self.user}"]
        if self.requested_by:
            parts.append(f"asked for by {self.requested_by} (unverified)")
        if self.flow_run_id:
            parts.append(f"flow run {self.flow_run_name or ''} ({self.flow_run_id})".replace("  ", " "))
        if self.pipeline:
            parts.append(f"running {self.pipeline}{f' of {self.target}' if self.datasets else ''}")
        parts.append(f"since {self.since}")
        if self.abandoned:
            parts.append(f"abandoned: {self.abandoned}")
        return ", ".join(parts)


@dataclass(frozen=True)
class LockState:
    """What lock file and holder file say together.

    Attributes:
        manager_id: -1 when free; the lock file alone decides this.
        holder: the details, only where they belong to that manager.
        contradiction: what the holder file says instead, empty where the two agree.
    """

    manager_id: int
    holder: Holder | None = None
    contradiction: str = ""

    @property
    def free(self) -> bool:
        """Whether nobody holds the lock."""
        return self.manager_id == NOBODY

    def describe(self) -> str:
        """Return one sentence on who holds it, for people."""
        if self.free:
            return "nobody"
        if self.holder:
            return self.holder.describe()
        reason = self.contradiction or "there is no holder file, so it may be a manager of sl-shared-assets"
        return f"manager {self.manager_id}; nothing else is known of it ({reason})"


class SessionLock:
    """The lock file that sl-shared-assets 5.1.0 uses, with a holder file beside it that says who holds it.

    The lock is a statement on disk, not a kernel lock: it survives its process, and says who should be working. The
    lock file decides; the holder file explains it, and is ignored, and said so, where it names another manager.
    A dataset, and an animal in it, have such a lock of their own.
    """

    def __init__(self, file_path: Path, release_command: str = "") -> None:
        self.file_path = Path(file_path)
        self._release_command = release_command
        self.holder_path = self.file_path.with_name(f"{self.file_path.stem}_holder{self.file_path.suffix}")

    def acquire(self, manager_id: int, holder: Holder | None = None) -> Holder:
        """Take the lock; the manager that holds it already may take it again, under a new incarnation.

        Returns:
            the holder as written, with the incarnation that later requests must carry.

        Raises:
            SessionLockedError: another manager holds it; says all that is known of it.
            TrackerCorruptError, LockTimeoutError, FileSystemError: nothing was changed.
        """
        holder = self._own(manager_id, holder)
        with locked(self.file_path):
            state = self._read()
            if not state.free and state.manager_id != manager_id:
                raise self.refusal(state, f"Manager {manager_id} was refused")
            self._take(holder, state)
        return holder

    def take_over(self, expected: LockState, holder: Holder) -> Holder:
        """Take the lock from a manager that was found dead, if nobody else has touched it meanwhile.

        Raises:
            SessionLockedError: the lock has another holder, or another incarnation, than `expected`.
        """
        holder = self._own(holder.manager_id, holder)
        with locked(self.file_path):
            state = self._read()
            if state != expected:
                raise self.refusal(state, "The lock changed hands meanwhile")
            self._take(holder, state)
        return holder

    def update(self, incarnation: str, **changes: Any) -> Holder:
        """Change details of the holder that `incarnation` belongs to.

        Raises:
            StaleLeaseError: that incarnation does not hold the lock any more.
        """
        with locked(self.file_path):
            holder = self._current(incarnation)
            changed = replace(holder, **changes)
            self._write_holder(changed)
        return changed

    def check_incarnation(self, incarnation: str) -> Holder:
        """Return the holder if `incarnation` is the one that holds the lock.

        Raises:
            StaleLeaseError: it is not; whoever asked must stop working on the session.
        """
        return self._current(incarnation)

    def release(self, manager_id: int, incarnation: str | None = None) -> None:
        """Give the lock back; a free lock stays free.

        Raises:
            SessionLockedError: another manager, or with `incarnation` another process of this one, holds it.
        """
        validate_manager_id(manager_id)
        with locked(self.file_path):
            held_by = self._read_manager_id()
            if held_by == NOBODY:
                return
            if held_by != manager_id:
                raise self.refusal(self._read(), f"Manager {manager_id} cannot release it")
            if incarnation is not None:
                self._current(incarnation)
            self._free()

    def force_release(self) -> None:
        """Free the lock, whoever holds it and whatever the file holds."""
        with locked(self.file_path):
            self._free()

    def check_owner(self, manager_id: int) -> None:
        """Do nothing if `manager_id` holds the lock.

        Raises:
            SessionLockedError: the lock is free, or another manager holds it.
        """
        validate_manager_id(manager_id)
        state = self.read()
        if state.free:
            raise SessionLockedError(
                f"{self._session} is not locked by anybody, so manager {manager_id} may not work on it. "
                "Nothing was changed. Take the lock first."
            )
        if state.manager_id != manager_id:
            raise self.refusal(state, f"Manager {manager_id} may not work on it")

    def read(self) -> LockState:
        """Return who holds the lock; a missing file is a free lock, and stays missing.

        Raises:
            TrackerCorruptError: the lock file holds something else, or less.
            FileSystemError: it is no file, or this account may not read it.
        """
        return read_settled(self.file_path, self._read)

    def _read(self) -> LockState:
        manager_id = self._read_manager_id()
        if manager_id == NOBODY:
            return LockState(NOBODY)
        holders, problem = self._read_holders()
        for holder in holders:
            if holder.manager_id == manager_id:
                return LockState(manager_id, holder)
        if holders:
            problem = f"{self.holder_path.name} names another one, manager {holders[0].manager_id}"
        return LockState(manager_id, None, problem)

    def _read_manager_id(self) -> int:
        """Read the lock file: as we and 5.1.0 write it by its text, which is faster, any other YAML as YAML."""
        try:
            content = read_file(self.file_path)
        except FileNotFoundError:
            return NOBODY
        if (match := _PATTERN.fullmatch(content)) and (manager_id := int(match[1])) <= MAXIMUM_MANAGER_ID:
            return manager_id
        return _parse_yaml(content, self.file_path, self._remedy)

    def _read_holders(self) -> tuple[list[Holder], str]:
        """Return whom the holder file names: the holder, then the one before; or what is wrong with it."""
        try:
            data = json.loads(self.holder_path.read_bytes())
            before = data.get("before")
            return [_parse_holder(each) for each in ([data, before] if before else [data])], ""
        except FileNotFoundError:
            return [], ""
        except (TypeError, ValueError, AttributeError, RecursionError, OSError):
            return [], f"{self.holder_path.name} cannot be read"

    def _current(self, incarnation: str) -> Holder:
        state = self._read()
        if state.holder is None or state.holder.incarnation != incarnation:
            raise StaleLeaseError(
                f"{self._session} is locked by {state.describe()}. The lock has passed to another process; this "
                "request was refused, and nothing was changed."
            )
        return state.holder

    def _own(self, manager_id: int, holder: Holder | None) -> Holder:
        validate_manager_id(manager_id)
        holder = holder or Holder(manager_id, process=ProcessIdentity.of_this_process())
        if holder.manager_id != manager_id:
            raise ValueError(f"The holder names manager {holder.manager_id}, not {manager_id}. Nothing was changed.")
        return holder

    def _take(self, holder: Holder, state: LockState) -> None:
        # the holder first, and the one before inside it: a crash in between leaves the lock as it was, with its details
        passes = holder.manager_id != state.manager_id
        self._write_holder(holder, before=state.holder if passes else None, more_to_come=passes)
        if passes:
            atomic_write(self.file_path, _TEXT.format(holder.manager_id).encode())

    def _write_holder(self, holder: Holder, *, before: Holder | None = None, more_to_come: bool = False) -> None:
        details = {**asdict(holder), **({"before": asdict(before)} if before else {})}
        content = json.dumps(details, indent=1, ensure_ascii=False)  # JSON is YAML, and written faster
        atomic_write(self.holder_path, content.encode(errors="surrogateescape") + b"\n", more_to_come=more_to_come)

    def _free(self) -> None:
        atomic_write(self.file_path, _TEXT.format(NOBODY).encode())
        try:
            self.holder_path.unlink(missing_ok=True)
        except OSError as error:
            raise FileSystemError(
                f"{self.holder_path} could not be removed: {error.strerror}. The lock is free."
            ) from error

    @property
    def _remedy(self) -> str:
        return f"Look at it, then reset it with: {self.release_command}"

    @property
    def release_command(self) -> str:
        """The command with which a person frees the lock."""
        return self._release_command or on_session(self._session, "lock", "release")

    @property
    def _session(self) -> Path:
        """The folder of the session, or of the dataset, that the lock stands for."""
        folder = self.file_path.parent
        return folder if self.file_path.name == DATASET_LOCK else folder.parent

    def refusal(self, state: LockState, event: str) -> SessionLockedError:
        """Return the error that says who holds the lock, what was refused therefore, and how to clear it."""
        remedy = "Try again." if state.free else f"If that manager is gone for good: {self.release_command}"
        return SessionLockedError(
            f"{self._session} is locked by {state.describe()}. {event}; nothing was changed.", remedy
        )


def _parse_yaml(content: bytes, path: Path, remedy: str) -> int:
    data = parse_yaml(content, path, remedy)
    manager_id = data.get("_manager_id")
    if (
        isinstance(manager_id, bool)
        or not isinstance(manager_id, int)
        or not NOBODY <= manager_id <= MAXIMUM_MANAGER_ID
    ):
        raise TrackerCorruptError(path, f"_manager_id is {reprlib.repr(manager_id)}, no manager id", remedy)
    refuse_cut_off(content, data, _KEYS, path, remedy)
    return manager_id


def _parse_holder(data: dict[str, Any]) -> Holder:
    known = {f.name for f in fields(Holder)}
    values = {key: value for key, value in data.items() if key in known}
    values["manager_id"] = validate_manager_id(values["manager_id"]) if "manager_id" in values else -2
    values["submissions"] = tuple(str(item) for item in values.get("submissions") or ())
    process = values.get("process")
    values["process"] = ProcessIdentity(**process) if isinstance(process, dict) else None
    return Holder(**values)
