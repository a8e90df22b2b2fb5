"""People's own work on results: what they changed since the result record was written."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from pathlib import Path, PurePosixPath

import xxhash

from trackers.names import ProcessingPipelines
from trackers.stale import record_of
from trackers.states import JobState
from trackers.submission import Submission
from trackers.targets import Target

PUBLISH = "publish"  # the job that puts a new result in the place of the old one; before it, the old one is whole
_ALWAYS_READ = frozenset({"iscell.npy", "stat.npy"})  # small, and what people change; a copy may keep its old time
_CELLS = "iscell.npy"
_OUTLINES = "stat.npy"
_DRAWN = frozenset({_OUTLINES, "F.npy", "Fneu.npy", "spks.npy"})  # suite2p writes these anew for a cell that was drawn
_FOLDER = "processed_data/"
_BLOCK = 1 << 20


def curated(changed: Collection[str]) -> list[str]:
    """Return which changed files of suite2p are people's work: chosen cells, and traces where a cell was drawn as well.

    Traces that changed alone, without the outlines beside them, are damaged.
    """
    drawn = {PurePosixPath(name).parent for name in changed if PurePosixPath(name).name == _OUTLINES}
    return sorted(
        name
        for name in changed
        if (path := PurePosixPath(name)).name == _CELLS or (path.name in _DRAWN and path.parent in drawn)
    )


def edited(target: Target, pipeline: ProcessingPipelines, current: Submission | None) -> list[str]:
    """Return the files of a session's result that were changed since its record was written, by path in the session.

    Files are read where size or time of change differ, cells and outlines always. Where a later run may have written in
    their place already, nothing can be said, and nothing is returned.
    """
    record = record_of(target, pipeline) if target.session else None
    if record is None or (current is not None and current.name != record["submission"] and _wrote(current)):
        return []
    paths = target.paths
    folder = paths.processed_data if paths.processed_data.is_dir() else paths.archived_data
    ended = datetime.fromisoformat(record["ended"]).timestamp()
    outputs = [output for output in record.get("outputs", []) if str(output["path"]).startswith(_FOLDER)]
    return [
        output["path"]
        for output in outputs
        if _changed(folder / output["path"].removeprefix(_FOLDER), output["size"], output["xxh3_128"], ended)
    ]


def _wrote(submission: Submission) -> bool:
    """Whether a run may have written where the result lies."""
    if PUBLISH not in submission.attempts:
        return True
    return any(
        a.state not in (JobState.PLANNED, JobState.PENDING, JobState.CANCELLED) for a in submission.attempts[PUBLISH]
    )


def _changed(path: Path, size: int, digest: str, ended: float) -> bool:
    """Whether a file has other contents than were recorded; one that is gone was not edited."""
    try:
        found = path.stat()
        if found.st_size != size:
            return True
        return (path.name in _ALWAYS_READ or found.st_mtime > ended) and _digest(path) != digest
    except FileNotFoundError:
        return False


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
