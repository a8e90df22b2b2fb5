"""What preparation and archiving share: they undo each other, and each first finishes what was interrupted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from jobs.copying import PARTIAL, REMOVING, Accept, Check, check_no_link, check_plain, copy_tree, remove_tree, some
from jobs.hashing import FileDigest, Shown, digests, files_of, folders_of
from trackers.commands import again
from trackers.curation import curated
from trackers.errors import FileSystemError, JobFailedError
from trackers.files import make_directory
from trackers.layout import SessionPaths
from trackers.names import ProcessingPipelines
from trackers.tracker import ProcessingTracker, reset_command


def refuse_while(paths: SessionPaths, counterpart: ProcessingPipelines) -> None:
    """Refuse to move anything while the opposite pipeline does.

    Raises:
        JobFailedError: its tracker says that it runs.
    """
    state = ProcessingTracker(paths.tracker(counterpart)).read()
    if state.running:
        raise JobFailedError(
            f"{counterpart} of {paths} is under way, under manager {state.manager_id}. Nothing was changed. Wait for "
            f"it; if it was interrupted, run it again, or reset it: {reset_command(paths.tracker(counterpart))}"
        )


def clear_remains(paths: SessionPaths, check: Check) -> None:
    """Remove what an interrupted move left: copies that were never verified, folders that were being removed."""
    for directory in (paths.source_data, paths.processed_data, paths.archived_data):
        for suffix in (PARTIAL, REMOVING):
            remains = directory.with_name(directory.name + suffix)
            if remains.is_dir():
                check()
                shutil.rmtree(remains)


def move_tree(
    source: Path, destination: Path, check: Check, shown: Shown, accept: Accept = lambda _moved: None
) -> dict[str, FileDigest]:
    """Move a folder to another volume: verified there before it is removed here; return the moved files' digests.

    Args:
        source: the folder to move; a missing one was moved before.
        destination: where it goes.
        check: raises where we may no longer change anything.
        shown: told the bytes that were read.
        accept: raises where the moved files are not all that they should be; called before anything is removed.

    Where an earlier move was interrupted and both exist, what is the same is kept and what is missing is added.

    Raises:
        JobFailedError: a file is in both, with different contents; nothing was changed.
        FileSystemError: `source` is a link, or see `copy_tree`; the source is whole.
    """
    check_no_link(source)
    if not source.is_dir():
        moved = digests(destination, files_of(destination), shown=shown) if destination.is_dir() else {}
        accept(moved)
        return moved
    check_plain(source)
    if not destination.is_dir():
        moved = copy_tree(source, destination, check, accept=accept, shown=shown)
    else:
        moved = _merge(source, destination, check, shown)
        accept(moved)
    remove_tree(source, check)
    return moved


def _merge(source: Path, destination: Path, check: Check, shown: Shown) -> dict[str, FileDigest]:
    here, there = files_of(source), files_of(destination)
    common = sorted(set(here) & set(there))
    kept, known = digests(source, common, shown=shown), digests(destination, there, shown=shown)
    if different := [name for name in common if kept[name].xxh3_128 != known[name].xxh3_128]:
        raise JobFailedError(
            f"{source} and {destination} both have {some(different)}, with different contents. Nothing was changed. "
            "Decide which is right, and remove the other."
        )
    missing = sorted(set(here) - set(there))
    added = copy_tree(source, destination, check, names=missing, shown=shown) if missing else {}
    for folder in folders_of(source):
        make_directory(destination / folder)
    return {**known, **added}


def check_against_records(paths: SessionPaths, processed: dict[str, FileDigest]) -> list[str]:
    """Compare processed data with what the pipelines' result records say that they made; return what people curated.

    Args:
        paths: the session.
        processed: digests of the contents, by path relative to processed_data.

    Raises:
        JobFailedError: a file is missing or has other contents, e.g. because a scratch volume was purged.
    """
    missing, changed = [], []
    made_of: list[Path] = []
    by_people: list[str] = []
    for record in sorted((paths.tracking_data / "results").glob("*.json")):
        outputs = _outputs(paths, record)
        if record.stem == ProcessingPipelines.SUITE2P.name:
            by_people = curated([o["path"] for o in outputs if _differs(o, processed)])
        for output in outputs:
            folder, _, name = output["path"].partition("/")
            if folder != "processed_data":
                continue
            if name not in processed:
                missing.append(output["path"])
            elif _differs(output, processed) and output["path"] not in by_people:
                changed.append(output["path"])
            else:
                continue
            made_of.append(record)
    if missing or changed:
        words = [f"{len(missing)} are missing: {some(missing)}"] if missing else []
        words += [f"{len(changed)} have other contents: {some(changed)}"] if changed else []
        remedies = dict.fromkeys(_again(paths, record, changed=bool(changed)) for record in made_of)
        raise JobFailedError(
            f"Of the files that the results of {paths} were made of, {'; '.join(words)}. Nothing was changed. "
            f"Have them made again: {' && '.join(filter(None, remedies))}"
        )
    return by_people


def _differs(output: dict[str, str], processed: dict[str, FileDigest]) -> bool:
    """Whether a recorded file is there with other contents."""
    folder, _, name = output["path"].partition("/")
    there = folder == "processed_data" and name in processed
    return there and processed[name].xxh3_128.hex() != output.get("xxh3_128")


def _again(paths: SessionPaths, record: Path, *, changed: bool = False) -> str:
    """Return the command that makes the results anew that a record is about; empty for a record of no pipeline.

    Args:
        paths: the session.
        record: the results' record.
        changed: whether files of theirs have other contents.
    """
    named = record.stem in ProcessingPipelines.__members__
    return again(ProcessingPipelines[record.stem], paths, changed=changed) if named else ""


def _outputs(paths: SessionPaths, record: Path) -> list[dict[str, str]]:
    try:
        return [output for output in json.loads(record.read_bytes())["outputs"] if isinstance(output["path"], str)]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise FileSystemError(
            f"{record} is no result record ({error!r}), so nobody can tell whether all results are there. Nothing was "
            f"changed. Move it away, then have the results made again: {_again(paths, record)}"
        ) from None
