"""Forge sessions into a dataset, or, with `--index`, make the index over them: `python -P -m jobs.forging --help`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from pathlib import Path

from jobs.copying import some
from jobs.forging_index import forged_earlier, write_index
from jobs.forging_multiday import tracked
from jobs.forging_records import Record, records_of, verify, verify_tracked
from jobs.forging_session import forge
from jobs.forging_sources import collect
from jobs.program import Output, Progress, check_dataset_owner, dataset_parser, dataset_paths, run, write_report
from trackers.commands import on_session
from trackers.errors import JobFailedError, SessionDataError
from trackers.forging_settings import ForgingSettings
from trackers.layout import SessionPaths
from trackers.names import ProcessingPipelines, session_time
from trackers.results import file_digest

LIBRARIES = ("pynwb", "nwbinspector", "ndx-pose", "hdmf", "h5py", "polars", "numpy")


def created(paths: SessionPaths, records: Mapping[ProcessingPipelines, Record]) -> datetime:
    """Return what a session's NWB file has for the date of its creation: when the newest of its sources was made.

    Not now: a file that is forged twice from the same sources is to be the same. Without result records it is the
    session's own time.
    """
    return max([session_time(paths.session), *(datetime.fromisoformat(r["ended"]) for r in records.values())])


def outputs(files: list[Path], directory: Path) -> Iterator[Output]:
    """Describe files of a dataset for its result record."""
    for path in files:
        yield Output(path.relative_to(directory).as_posix(), path.stat().st_size, file_digest(path))


@contextlib.contextmanager
def _others_can_be_forged(paths: SessionPaths) -> Iterator[None]:
    """Say, where a session is refused for what it is, how the others of its dataset are forged."""
    try:
        yield
    except (SessionDataError, JobFailedError) as error:
        words = on_session(paths.storage_directory, "exclude", options=("--reason", "it cannot be forged"))
        raise JobFailedError(
            f"{error} To forge the others without it, name them, or where all are meant: {words}"
        ) from None


def main() -> None:
    """Carry out the command line."""
    parser = dataset_parser("Forges sessions into a dataset.", animal=False)
    parser.add_argument("--settings", default="{}", help="settings of forging, JSON")
    parser.add_argument("--index", action="store_true", help="make the index over sessions that were forged")
    parser.add_argument("--left-out", nargs="+", default=[], help="for the index: which were not, and why, in words")
    arguments = parser.parse_args()
    dataset, sessions = dataset_paths(arguments)
    settings = ForgingSettings.from_json(json.loads(arguments.settings), "--settings")
    check_dataset_owner(dataset, sessions, arguments.manager_id)
    versions = {name: metadata.version(name) for name in LIBRARIES}
    notes: list[str] = []
    files: list[Path] = []
    if arguments.index:
        notes = [f"left out: {words}" for words in arguments.left_out]
        if earlier := forged_earlier(dataset, sessions):
            notes.append(f"no part of the dataset any more, though its folder still holds them: {some(earlier)}")
        files = write_index(dataset, sessions, settings, versions, arguments.left_out)
    else:
        progress = Progress(len(sessions), "sessions")
        for number, paths in enumerate(sessions, start=1):
            folder = dataset.directory / paths.animal
            with _others_can_be_forged(paths):
                records = records_of(paths)
                # first: of a file that was purged they say how to have it again
                notes_of = (*verify(paths, records), *verify_tracked(replace(dataset, animal=paths.animal), paths))
                sources = replace(collect(paths), notes=notes_of, tracked=tracked(folder, paths.session))
                check_dataset_owner(dataset, sessions, arguments.manager_id)
                summary = forge(sources, settings, folder, created(paths, records))
            notes += [f"{paths}: {words}" for words in (*summary["missing"], *summary["notes"])]
            files += sorted(folder.glob(f"{paths.session}[._]*"))
            progress.show(number)
    print("\n".join(notes))
    write_report(outputs(files, dataset.directory), versions, notes)


if __name__ == "__main__":
    run(main)
