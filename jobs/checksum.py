"""Verify a session's raw_data against ax_checksum.txt, or write it anew: `python -P -m jobs.checksum --help`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import xxhash

from jobs.hashing import FileDigest, Shown, digests, files_of
from jobs.program import ByteProgress, check_owner, run, session_parser, session_paths, write_report
from trackers import commands
from trackers.errors import FileSystemError, JobFailedError, SessionDataError
from trackers.files import atomic_write
from trackers.layout import SessionPaths
from trackers.names import ProcessingPipelines
from trackers.session import CHECKSUM_FILE, NOT_CHECKSUMMED, load_session

LISTING = "raw_data_digests.json"  # in tracking_data: what each file was when the checksum was last right
MOST_NAMED = 10
_CHECKSUM = re.compile(r"[0-9a-f]{32}", re.ASCII)


def directory_checksum(directory: Path) -> str:
    """Return the checksum that sl-shared-assets 5.1.0 gives a folder, as 32 hex digits.

    xxh3-128 over, in order of relative path as a string, that path's bytes and the digest of its path and contents;
    the checksum file and the marker files are left out.

    Raises:
        FileSystemError: a file or folder cannot be read.
    """
    return combined(read_directory(directory))


def read_directory(directory: Path, shown: Shown = lambda _bytes: None) -> dict[str, FileDigest]:
    """Return the digests of all files that count for a folder's checksum, by relative path."""
    return digests(directory, files_of(directory, NOT_CHECKSUMMED), named=True, shown=shown)


def combined(files: dict[str, FileDigest]) -> str:
    """Return the directory checksum that the files' digests make."""
    total = xxhash.xxh3_128()
    for name in sorted(files):
        total.update(name.encode(errors="surrogateescape"))
        total.update(files[name].xxh3_128)
    return str(total.hexdigest())


def recorded_checksum(paths: SessionPaths) -> str:
    """Return what ax_checksum.txt says.

    Raises:
        SessionDataError: it is missing, or holds something else than 32 hex digits.
    """
    path = paths.raw_data / CHECKSUM_FILE
    anew = commands.run(ProcessingPipelines.CHECKSUM, paths, "--regenerate")
    remedy = f"Restore it from the acquisition computer, or, if sure of the data, write it anew: {anew}"
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        raise SessionDataError(
            f"{path} is missing, so the session's integrity cannot be verified. Nothing was changed. {remedy}"
        ) from None
    except OSError as error:
        raise FileSystemError(f"{path} cannot be read: {error.strerror}. Nothing was changed.") from error
    if not _CHECKSUM.fullmatch(text):
        raise SessionDataError(
            f"{path} holds {text!r:.60}, which is no checksum of 32 hex digits. Nothing was changed. {remedy}"
        )
    return text


def verify(paths: SessionPaths, shown: Shown = lambda _bytes: None) -> dict[str, FileDigest]:
    """Check raw_data against its checksum; return the files' digests, which are kept to name changes later.

    Raises:
        SessionDataError: there is no checksum.
        FileSystemError: a file cannot be read.
        JobFailedError: the checksum is another one; names the files that changed where that is known.
    """
    recorded = recorded_checksum(paths)
    files = read_directory(paths.raw_data, shown)
    if (found := combined(files)) != recorded:
        raise JobFailedError(
            f"{paths.raw_data} is not what was acquired: its checksum is {found}, and {CHECKSUM_FILE} says {recorded}. "
            f"Nothing was changed. {_changes(paths, files)} Restore the files from the acquisition computer."
        )
    _keep(paths, files)
    return files


def regenerate(
    paths: SessionPaths, shown: Shown = lambda _bytes: None, check: Callable[[], None] = lambda: None
) -> dict[str, FileDigest]:
    """Write ax_checksum.txt anew, from raw_data as it is; `check` raises where we may no longer change anything."""
    files = read_directory(paths.raw_data, shown)
    check()
    atomic_write(paths.raw_data / CHECKSUM_FILE, combined(files).encode())
    _keep(paths, files)
    return files


def _keep(paths: SessionPaths, files: dict[str, FileDigest]) -> None:
    listing = {name: [f.size, f.mtime_ns, f.xxh3_128.hex()] for name, f in files.items()}
    atomic_write(paths.tracking_data / LISTING, json.dumps(listing, indent=0).encode())


def _changes(paths: SessionPaths, files: dict[str, FileDigest]) -> str:
    """Name the files that differ from what they were when the checksum was last right, or that may."""
    try:
        known = json.loads((paths.tracking_data / LISTING).read_bytes())
        changed = {name for name in known.keys() & files.keys() if known[name][2] != files[name].xxh3_128.hex()}
        kinds = {"changed": changed, "missing": known.keys() - files.keys(), "new": files.keys() - known.keys()}
        named = [f"{kind}: {_some(names)}" for kind, names in kinds.items() if names]
        return f"Since it was last right: {'; '.join(named) or f'no file changed, but {CHECKSUM_FILE} itself did'}."
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        pass  # never verified here before, or by a program that keeps no listing
    written = (paths.raw_data / CHECKSUM_FILE).stat().st_mtime_ns
    if later := {name for name, f in files.items() if f.mtime_ns > written}:
        return f"Which files changed was not recorded; modified after the checksum: {_some(later)}."
    return "Which files changed is not known: it has never been right on this server."


def _some(names: set[str]) -> str:
    shown = ", ".join(repr(name) for name in sorted(names)[:MOST_NAMED])
    return shown + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


def main() -> None:
    """Carry out the command line."""
    parser = session_parser("Verifies a session's raw_data against its checksum.")
    parser.add_argument("--regenerate", action="store_true", help="write the checksum anew instead")
    arguments = parser.parse_args()
    paths = session_paths(arguments)
    load_session(paths)
    check_owner(paths, arguments.manager_id)
    total = sum((paths.raw_data / name).stat().st_size for name in files_of(paths.raw_data, NOT_CHECKSUMMED))
    shown = ByteProgress(total)
    if arguments.regenerate:
        files = regenerate(paths, shown, lambda: check_owner(paths, arguments.manager_id))
    else:
        files = verify(paths, shown)
    write_report(notes=[f"{len(files)} files, {total} bytes"])


if __name__ == "__main__":
    run(main)
