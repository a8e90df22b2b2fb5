"""Copy raw_data to the working volume, and bring back what was archived: `python -P -m jobs.preparation --help`."""

from __future__ import annotations

from jobs.checksum import combined, recorded_checksum, verify
from jobs.copying import Check, check_no_link, check_room, copy_tree, remove_tree, sizes_of, some
from jobs.hashing import FileDigest, Shown, digests, files_of, total_size
from jobs.moving import clear_remains, move_tree, refuse_while
from jobs.program import ByteProgress, check_owner, run, session_parser, session_paths, write_report
from trackers.errors import JobFailedError
from trackers.layout import SessionPaths
from trackers.names import ProcessingPipelines
from trackers.session import NOT_CHECKSUMMED, load_session


def prepare(paths: SessionPaths, check: Check, shown: Shown = lambda _bytes: None) -> list[str]:
    """Make source_data a verified copy of raw_data, and processed_data what was archived; return what was done.

    On one volume nothing is copied and nothing removed.

    Raises:
        JobFailedError: archiving is under way; raw_data is not what its checksum says; or source_data holds files
            that raw_data lacks. What is in source_data stays.
        FileSystemError: there is no room, or a file could not be read or written.
    """
    if paths.volumes.one:
        return ["storage and working volume are one: nothing was copied"]
    refuse_while(paths, ProcessingPipelines.ARCHIVING)
    clear_remains(paths, check)
    _check_room(paths)
    done = _source(paths, check, shown)
    if paths.archived_data.is_dir():
        back = move_tree(paths.archived_data, paths.processed_data, check, shown)
        done.append(f"{len(back)} archived files are processed data again")
    return done


def _check_room(paths: SessionPaths) -> None:
    """Refuse before anything is copied, where not all of it fits."""
    moves = ((paths.raw_data, paths.source_data), (paths.archived_data, paths.processed_data))
    coming = [source for source, destination in moves if source.is_dir() and not destination.is_dir()]
    if coming:
        check_room(paths.working_directory, [size for source in coming for size in sizes_of(source)])


def _source(paths: SessionPaths, check: Check, shown: Shown) -> list[str]:
    recorded = recorded_checksum(paths)
    if paths.source_data.is_dir():
        names = files_of(paths.source_data)
        if _checksum(digests(paths.source_data, names, named=True, shown=shown)) == recorded:
            return ["source_data is what it must be already"]
        if extra := sorted(set(names) - set(files_of(paths.raw_data))):
            raise JobFailedError(
                f"{paths.source_data} has files that raw_data lacks: {some(extra)}. Nothing was changed. "
                "Take them away if they are to be kept, then run preparation again."
            )
        check_no_link(paths.source_data)
        verify(paths, shown)  # where raw_data was damaged, source_data may have what it lost
        remove_tree(paths.source_data, check)

    def accept(copied: dict[str, FileDigest]) -> None:
        if _checksum(copied) != recorded:
            raise JobFailedError(
                f"{paths.raw_data} is not what its checksum says. Nothing was prepared. Run checksum again: it names "
                "the files that changed."
            )

    copied = copy_tree(paths.raw_data, paths.source_data, check, named=True, accept=accept, shown=shown)
    return [f"{len(copied)} files, {sum(f.size for f in copied.values())} bytes copied"]


def _checksum(files: dict[str, FileDigest]) -> str:
    return combined({name: f for name, f in files.items() if name.rsplit("/", maxsplit=1)[-1] not in NOT_CHECKSUMMED})


def main() -> None:
    """Carry out the command line."""
    arguments = session_parser("Copies raw_data to the working volume.").parse_args()
    paths = session_paths(arguments)
    load_session(paths)

    def check() -> None:
        check_owner(paths, arguments.manager_id)

    check()
    done = prepare(paths, check, ByteProgress(2 * total_size(paths.raw_data, paths.archived_data)))
    print("\n".join(done))
    write_report(notes=done)


if __name__ == "__main__":
    run(main)
