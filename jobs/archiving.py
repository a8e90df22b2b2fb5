"""Move processed_data to the storage volume, then remove the working copies: `python -P -m jobs.archiving --help`."""

from __future__ import annotations

from jobs.copying import Check, remove_tree, some
from jobs.hashing import FileDigest, Shown, files_of, total_size
from jobs.moving import check_against_records, clear_remains, move_tree, refuse_while
from jobs.program import ByteProgress, Output, check_owner, run, session_parser, session_paths, write_report
from trackers.errors import JobFailedError
from trackers.layout import SessionPaths
from trackers.names import ProcessingPipelines
from trackers.session import load_session


def archive(paths: SessionPaths, check: Check, shown: Shown = lambda _bytes: None) -> dict[str, FileDigest]:
    """Move processed_data to archived_data, verified, and remove source_data; return what is archived.

    On one volume nothing is copied and nothing removed.

    Raises:
        JobFailedError: preparation is under way; a file that a result record names is missing or has other contents;
            or source_data holds what raw_data lacks. Nothing was removed.
        FileSystemError: there is no room, or a file could not be read or written.
    """
    if paths.volumes.one:
        return {}
    refuse_while(paths, ProcessingPipelines.PREPARATION)
    clear_remains(paths, check)
    _check_source(paths)
    archived = move_tree(
        *(paths.processed_data, paths.archived_data, check, shown),
        accept=lambda moved: check_against_records(paths, moved),
    )
    remove_tree(paths.source_data, check)
    return archived


def _check_source(paths: SessionPaths) -> None:
    """Refuse to remove a source_data that is more than a copy of raw_data."""
    if not paths.source_data.is_dir():
        return
    own = []
    for name in files_of(paths.source_data):
        copy, original = (paths.source_data / name).stat(), paths.raw_data / name
        if not original.is_file() or (original.stat().st_size, original.stat().st_mtime_ns) != (
            copy.st_size,
            copy.st_mtime_ns,
        ):
            own.append(name)
    if own:
        raise JobFailedError(
            f"{paths.source_data} has files that raw_data lacks, or has otherwise: {some(own)}. Nothing was archived. "
            "Take them away if they are to be kept; remove them from source_data if not."
        )


def main() -> None:
    """Carry out the command line."""
    arguments = session_parser("Moves processed_data to the storage volume.").parse_args()
    paths = session_paths(arguments)
    load_session(paths)

    def check() -> None:
        check_owner(paths, arguments.manager_id)

    check()
    if paths.volumes.one:
        print("storage and working volume are one: nothing was copied or removed")
    archived = archive(paths, check, ByteProgress(2 * total_size(paths.processed_data)))
    write_report(Output(f"archived_data/{name}", f.size, f.xxh3_128.hex()) for name, f in archived.items())


if __name__ == "__main__":
    run(main)
