"""Puts a new multi-day result in the place of the old one, which is kept beside it.

A result is made in `next/`. It takes its place in three steps; one that is interrupted is finished by the
next run: what stands there goes to `.old/`, the new result comes from `.publishing/`, and `.old/` becomes `previous/`.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from jobs.program import check_dataset_owner, dataset_parser, dataset_paths, run, write_report
from trackers.errors import InvalidNameError
from trackers.names import validate_session_name

NEXT, PUBLISHING, OLD, PREVIOUS = "next", ".publishing", ".old", "previous"
FILES = ("cells.feather", "registration.npz")  # beside a folder for each session


def publish(directory: Path) -> None:
    """Put what `next/` holds in place; where that was interrupted, finish it."""
    old, publishing, previous = (directory / name for name in (OLD, PUBLISHING, PREVIOUS))
    if (directory / NEXT).is_dir() and not publishing.is_dir():
        for path in _result(directory):
            old.mkdir(exist_ok=True)
            path.rename(old / path.name)
        (directory / NEXT).rename(publishing)
    if publishing.is_dir():
        for path in publishing.iterdir():
            path.rename(directory / path.name)
        publishing.rmdir()
    if old.is_dir():
        shutil.rmtree(previous, ignore_errors=True)  # its successor's successor is in place
        old.rename(previous)


def fresh(directory: Path) -> Path:
    """Return the empty folder in which a new result is made; what an earlier run did not finish is gone."""
    if (directory / OLD).is_dir() or (directory / PUBLISHING).is_dir():
        publish(directory)
    shutil.rmtree(directory / NEXT, ignore_errors=True)
    return directory / NEXT


def _result(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.name in FILES or _is_session(path.name)]


def _is_session(name: str) -> bool:
    with contextlib.suppress(InvalidNameError):
        return bool(validate_session_name(name))
    return False


def main() -> None:
    """Carry out the command line."""
    arguments = dataset_parser("Puts a new multi-day result in place.", animal=True).parse_args()
    dataset, sessions = dataset_paths(arguments)
    check_dataset_owner(dataset, sessions, arguments.manager_id)
    publish(dataset.directory)
    write_report()


if __name__ == "__main__":
    run(main)
