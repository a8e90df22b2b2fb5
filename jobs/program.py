"""What every job program shares: its arguments, the owner check, progress lines, and one sentence when it fails."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from trackers.errors import SessionflowError
from trackers.files import atomic_write
from trackers.layout import DatasetPaths, SessionPaths, Volumes
from trackers.lock import SessionLock

SIGNAL_EXIT_CODE = 128  # + the signal, as shells report it
PROGRESS_SECONDS = 0.5
Steps = Callable[[int, int], None]
REPORT_VARIABLE = "SESSIONFLOW_REPORT"


class Terminated(BaseException):
    """The job was asked to end by a signal; raised where it stands, so that `finally` clauses clean up."""


def session_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that name a session and its manager."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--storage", type=Path, required=True, help="folder that holds the projects, storage volume")
    parser.add_argument("--working", type=Path, required=True, help="folder that holds the projects, working volume")
    parser.add_argument("--project", required=True)
    parser.add_argument("--animal", required=True)
    parser.add_argument("--session", required=True)
    parser.add_argument("--manager-id", type=int, required=True, help="the manager that must hold the session lock")
    return parser


def dataset_parser(description: str, *, animal: bool) -> argparse.ArgumentParser:
    """Return a parser with the arguments that name a dataset, or an `animal` in it, its sessions, and its manager."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--storage", type=Path, required=True, help="folder that holds the projects, storage volume")
    parser.add_argument("--working", type=Path, required=True, help="folder that holds the projects, working volume")
    parser.add_argument("--datasets", type=Path, required=True, help="folder that holds the account's datasets")
    parser.add_argument("--project", required=True)
    parser.add_argument("--dataset", required=True)
    if animal:
        parser.add_argument("--animal", required=True)
    parser.add_argument("--sessions", nargs="+", required=True, metavar="ANIMAL/SESSION")
    parser.add_argument("--manager-id", type=int, required=True, help="the manager that must hold all the locks")
    return parser


def dataset_paths(arguments: argparse.Namespace) -> tuple[DatasetPaths, list[SessionPaths]]:
    """Return the dataset and the sessions that the arguments of `dataset_parser` name, in their order."""
    volumes = Volumes(arguments.storage, arguments.working)
    animal = getattr(arguments, "animal", "")
    sessions = [SessionPaths(volumes, arguments.project, *name.split("/", 1)) for name in arguments.sessions]
    return DatasetPaths(arguments.datasets, arguments.project, arguments.dataset, animal), sessions


def check_dataset_owner(dataset: DatasetPaths, sessions: Iterable[SessionPaths], manager_id: int) -> None:
    """Refuse to work on a dataset unless `manager_id` holds it and all its sessions.

    Raises:
        SessionLockedError: one of the locks is free or names another manager.
    """
    for path in (dataset.lock, *(session.lock for session in sessions)):
        SessionLock(path).check_owner(manager_id)


def session_paths(arguments: argparse.Namespace) -> SessionPaths:
    """Return the session that the arguments of `session_parser` name; names are validated."""
    volumes = Volumes(arguments.storage, arguments.working)
    return SessionPaths(volumes, arguments.project, arguments.animal, arguments.session)


def check_owner(paths: SessionPaths, manager_id: int) -> None:
    """Refuse to work on a session that `manager_id` does not hold.

    Raises:
        SessionLockedError: the lock is free or names another manager.
    """
    SessionLock(paths.lock).check_owner(manager_id)


@dataclass(frozen=True)
class Output:
    """A file that a job made, for the result record.

    Attributes:
        path: relative to the session's folder on its volume, e.g. `processed_data/behavior_data/lick_data.feather`.
        size: bytes.
        xxh3_128: of the contents, hex.
    """

    path: str
    size: int
    xxh3_128: str


def write_report(
    outputs: Iterable[Output] = (), versions: dict[str, str] | None = None, notes: Iterable[str] = ()
) -> None:
    """Leave what the result record is made of, where the job script asked for it; run by hand, nobody did.

    Args:
        outputs: the files that the job made.
        versions: of the libraries that made them, by distribution name.
        notes: what people must know of this success, e.g. which source was absent.
    """
    if path := os.environ.get(REPORT_VARIABLE):
        report = {"outputs": [asdict(o) for o in outputs], "versions": versions or {}, "notes": list(notes)}
        atomic_write(Path(path), json.dumps(report).encode(errors="surrogateescape"))


class Progress:
    """Prints `progress DONE/TOTAL UNIT` lines, a few a second at most; the last one of a job's log is its progress."""

    def __init__(self, total: float, unit: str) -> None:
        self._total = total
        self._unit = unit
        self._next = 0.0
        self._all_shown = False

    def show(self, done: float, total: float | None = None) -> None:
        """Print how much is done, unless a line was printed just now; that all is done is always printed, once.

        Args:
            done: how much.
            total: where it was not known before.
        """
        self._total = self._total if total is None else total
        now, all_done = time.monotonic(), done >= self._total
        if now >= self._next or (all_done and not self._all_shown):
            self._next = now + PROGRESS_SECONDS
            self._all_shown = all_done
            print(f"progress {done:g}/{self._total:g} {self._unit}", flush=True)


class ByteProgress:
    """Progress in MB, told by several threads how many bytes were done."""

    def __init__(self, total: int) -> None:
        self._progress = Progress(round(total / 1e6, 1), "MB")
        self._done = 0
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        """Count bytes."""
        with self._lock:
            self._done += count
            self._progress.show(round(self._done / 1e6, 1))


def run(main: Callable[[], None]) -> None:
    """Run a job's `main` and exit: 0, 143 after SIGTERM, 130 after Ctrl-C, or 1 with one sentence on stderr."""
    job = os.getpid()

    def terminate(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != job:  # a library's child process: it has nothing of ours to clean up
            os._exit(SIGNAL_EXIT_CODE + number)
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
        raise Terminated(signal.Signals(number))

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, terminate)
    try:
        main()
    except Terminated as terminated:
        (number,) = terminated.args
        print(f"ended on request ({number.name})", file=sys.stderr)
        sys.exit(SIGNAL_EXIT_CODE + number)
    except SessionflowError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        what = error.filename or ("A file" if error.strerror else type(error).__name__)
        print(f"{what}: {error.strerror or error}.", file=sys.stderr)
        sys.exit(1)
