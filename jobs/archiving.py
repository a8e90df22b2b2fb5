"""Move processed_data to the storage volume, then remove the working copies: `python -P -m jobs.archiving --help`."""

from __future__ import annotations

from collections.abc import Callable

from jobs.checksum import verify
from jobs.copying import Check, check_no_link, remove_tree, some
from jobs.hashing import FileDigest, Shown, digests, files_of, total_size
from jobs.moving import check_against_records, clear_remains, move_tree, refuse_while
from jobs.program import ByteProgress, Output, check_owner, run, session_parser, session_paths, write_report
from trackers.errors import JobFailedError
from trackers.layout import SessionPaths
from trackers.names import ProcessingPipelines
from trackers.session import load_session


def archive(
    paths: SessionPaths,
    check: Check,
    shown: Shown = lambda _bytes: None,
    tell: Callable[[str], None] = lambda _words: None,
) -> dict[str, FileDigest]:
    """Move processed_data to archived_data, verified, and remove source_data; return what is archived.

    On one volume nothing is copied and nothing removed. `tell` is told what people must know, e.g. what they curated.

    Raises:
        JobFailedError: preparation is under way; a file that a result record names is missing or has other contents;
            raw_data is not what its checksum says; or source_data holds what raw_data lacks. Nothing was removed.
        FileSystemError: there is no room, or a file could not be read or written.
    """
    if paths.volumes.one:
        return {}
    refuse_while(paths, ProcessingPipelines.PREPARATION)
    clear_remains(paths, check)
    _check_source(paths, shown)

    def accept(moved: dict[str, FileDigest]) -> None:
        if by_people := check_against_records(paths, moved):
            tell(f"curated by people since suite2p wrote it: {some(by_people)}")

    archived = move_tree(paths.processed_data, paths.archived_data, check, shown, accept)
    remove_tree(paths.source_data, check)
    return archived


def _check_source(paths: SessionPaths, shown: Shown) -> None:
    """Refuse to remove a source_data that is more than a copy of raw_data, or has what raw_data lost."""
    check_no_link(paths.source_data)
    if not paths.source_data.is_dir():
        return
    raw = verify(paths, shown)
    own, doubtful = [], []
    for name in files_of(paths.source_data):
        copy = (paths.source_data / name).stat()
        if name not in raw:  # a marker file, whose presence is all that it says
            own += [] if (paths.raw_data / name).is_file() else [name]
        elif copy.st_size != raw[name].size:
            own.append(name)
        elif copy.st_mtime_ns != raw[name].mtime_ns:
            doubtful.append(name)  # changed, or on a file system that rounds times
    read = digests(paths.source_data, doubtful, named=True, shown=shown)
    own += [name for name in doubtful if read[name].xxh3_128 != raw[name].xxh3_128]
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
    read_again = total_size(paths.raw_data) if paths.source_data.is_dir() else 0
    notes: list[str] = []
    archived = archive(paths, check, ByteProgress(2 * total_size(paths.processed_data) + read_again), notes.append)
    outputs = (Output(f"archived_data/{name}", f.size, f.xxh3_128.hex()) for name, f in archived.items())
    write_report(outputs, notes=notes)


if __name__ == "__main__":
    run(main)
