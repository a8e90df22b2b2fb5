"""Write a project's manifest, one row for each session: `python -P -m jobs.manifest --help`."""

from __future__ import annotations

import argparse
import contextlib
import io
import secrets
import sys
import time
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.program import Progress, Steps, run, write_report
from trackers.errors import BadInputError, LockTimeoutError, SessionflowError
from trackers.facts import sessions_of
from trackers.files import atomic_write, load_yaml, locked, make_directory
from trackers.layout import ProjectPaths, SessionPaths, Volumes
from trackers.names import ProcessingPipelines, SessionTypes, session_time
from trackers.session import Completeness, completeness, load_session
from trackers.site import Site
from trackers.targets import Target
from trackers.tracker import ProcessingTracker

if TYPE_CHECKING:
    import polars as pl

DEFAULT_TIMEZONE = "America/New_York"
DEFAULT_NOTES = "Replace this with your notes."
NO_NOTES = "N/A"
LOCK_SECONDS = 20.0
REQUESTS = ".manifest_requests"  # beside the manifest: whose names these are, wants a manifest that begins after now
COLUMNS = {  # column → the pipeline whose tracker it shows
    "integrity": ProcessingPipelines.CHECKSUM,
    "prepared": ProcessingPipelines.PREPARATION,
    "suite2p": ProcessingPipelines.SUITE2P,
    "behavior": ProcessingPipelines.BEHAVIOR,
    "video": ProcessingPipelines.VIDEO,
    "archived": ProcessingPipelines.ARCHIVING,
}
_FREE_SECONDS = 0.05  # between looks at whether somebody else has served us

Row = dict[str, Any]


def generate_manifest(
    paths: ProjectPaths,
    manager_id: int,
    timezone: str = DEFAULT_TIMEZONE,
    shown: Steps = lambda _done, _total: None,
) -> list[str]:
    """Write a project's manifest; many requests at once share one regeneration, which began after each of them.

    Args:
        paths: the project.
        manager_id: shown in the manifest's tracker while it runs; the tracker excludes nobody.
        timezone: of the dates, e.g. Europe/Berlin.
        shown: told how many sessions were read, of how many.

    Returns:
        what is wrong with the sessions that could not be read, and are not in the manifest; empty where another
        request's regeneration served this one.

    Raises:
        BadInputError: there is no such project or time zone.
        LockTimeoutError: another program held the manifest for 20 s.
    """
    paths.check()
    if timezone not in zoneinfo.available_timezones():
        raise BadInputError(f"{timezone!r} is no time zone. Nothing was written. Use a name like Europe/Berlin.")
    ticket = _request(paths, timezone)
    try:
        with _turn(paths, ticket) as ours:
            return _regenerate(paths, manager_id, timezone, shown) if ours else []
    finally:
        ticket.unlink(missing_ok=True)


def manifest_rows(paths: ProjectPaths, shown: Steps = lambda _done, _total: None) -> tuple[list[Row], list[str]]:
    """Return a row for every session that can be read, and what is wrong with the others; changes nothing."""
    rows: list[Row] = []
    unreadable: dict[str, str] = {}
    sessions = sessions_of(Target(Site(paths.volumes), paths.project), unreadable=unreadable)
    problems = list(unreadable.values())
    for number, (animal, session) in enumerate(sessions, start=1):
        session_paths = SessionPaths(paths.volumes, paths.project, animal, session)
        try:
            if any(session_paths.raw_data.iterdir()):
                rows.append(_row(session_paths))
        except (SessionflowError, OSError) as error:
            problems.append(f"{session_paths} is not in the manifest: {error}")
        shown(number, len(sessions))
    return rows, problems


def table(rows: list[Row], timezone: str) -> pl.DataFrame:
    """Return rows as 5.1.0's manifest, sorted by animal, then session."""
    import polars as pl

    numeric = all(_is_uint64(row["animal"]) for row in rows)
    flags = ("complete", *COLUMNS)
    schema: dict[str, Any] = {
        "animal": pl.String,
        "date": pl.Datetime("us", "UTC"),
        **dict.fromkeys(("session", "type", "system", "notes"), pl.String),
        **dict.fromkeys(flags, pl.UInt8),
    }
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns(
        pl.col("animal").cast(pl.UInt64 if numeric else pl.String), pl.col("date").dt.convert_time_zone(timezone)
    ).sort("animal", "session")


def _regenerate(paths: ProjectPaths, manager_id: int, timezone: str, shown: Steps) -> list[str]:
    tracker = ProcessingTracker(paths.manifest_tracker)
    tracker.abort()
    tracker.start(manager_id)
    try:
        served = list(_requests(paths, timezone))
        rows, problems = manifest_rows(paths, shown)
        buffer = io.BytesIO()
        table(rows, timezone).write_ipc(buffer, compression="lz4")
        atomic_write(paths.manifest, buffer.getvalue())
        for ticket in served:
            ticket.unlink(missing_ok=True)
    except BaseException:
        tracker.error(manager_id)
        raise
    tracker.stop(manager_id)
    return problems


@contextlib.contextmanager
def _turn(paths: ProjectPaths, ticket: Path) -> Iterator[bool]:
    """Wait for the manifest's lock; give True with it held, or False where somebody has served the ticket meanwhile."""
    deadline = time.monotonic() + LOCK_SECONDS
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(paths.manifest, timeout=_FREE_SECONDS))
                break
            except LockTimeoutError:
                if time.monotonic() > deadline:
                    raise LockTimeoutError(paths.manifest, LOCK_SECONDS) from None
            if not ticket.exists():
                break
        yield ticket.exists()


def _request(paths: ProjectPaths, timezone: str) -> Path:
    directory = paths.directory / REQUESTS
    make_directory(directory)
    ticket = directory / f"{_key(timezone)}.{secrets.token_hex(8)}"
    atomic_write(ticket, b"")
    return ticket


def _requests(paths: ProjectPaths, timezone: str) -> Iterator[Path]:
    return (paths.directory / REQUESTS).glob(f"{_key(timezone)}.*")


def _key(timezone: str) -> str:
    return timezone.replace("/", "-")


def _is_uint64(animal: str) -> bool:
    return animal.isascii() and animal.isdecimal() and int(animal) < 1 << 64


def _row(paths: SessionPaths) -> Row:
    data = load_session(paths)
    complete = completeness(paths.raw_data) is Completeness.COMPLETE
    flags = {
        column: int(ProcessingTracker(paths.tracker(pipeline)).read().complete) for column, pipeline in COLUMNS.items()
    }
    if not complete or not flags["integrity"]:
        flags = {column: value if column == "integrity" else 0 for column, value in flags.items()}
    return {
        "animal": paths.animal,
        "date": session_time(paths.session),
        "session": paths.session,
        "type": data.session_type.value,
        "system": data.acquisition_system.value,
        "notes": _notes(paths, data.session_type),
        "complete": int(complete),
        **flags,
    }


def _notes(paths: SessionPaths, kind: SessionTypes) -> str:
    path = paths.raw_data / "session_descriptor.yaml"
    try:
        notes = load_yaml(path, "Restore it from the acquisition computer.").get("experimenter_notes")
        return DEFAULT_NOTES if notes is None else str(notes)
    except (OSError, SessionflowError):
        if kind is SessionTypes.WINDOW_CHECKING:
            return NO_NOTES
        raise


def main() -> None:
    """Carry out the command line."""
    parser = argparse.ArgumentParser(description="Writes a project's manifest.")
    parser.add_argument("--storage", type=Path, required=True, help="folder that holds the projects, storage volume")
    parser.add_argument("--working", type=Path, required=True, help="folder that holds the projects, working volume")
    parser.add_argument("--project", required=True)
    parser.add_argument("--manager-id", type=int, required=True, help="shown in the manifest's tracker")
    parser.add_argument("--timezone", default=DEFAULT_TIMEZONE, help=f"of the dates (default: {DEFAULT_TIMEZONE})")
    arguments = parser.parse_args()
    paths = ProjectPaths(Volumes(arguments.storage, arguments.working), arguments.project)
    problems = generate_manifest(paths, arguments.manager_id, arguments.timezone, Progress(0, "sessions").show)
    for problem in problems:
        print(problem, file=sys.stderr)
    write_report(notes=problems)


if __name__ == "__main__":
    run(main)
