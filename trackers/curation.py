"""People's own work on results: what they changed since the result record was written."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from trackers.names import ProcessingPipelines
from trackers.publication import stands
from trackers.results import file_digest
from trackers.stale import CELLS, record_of
from trackers.targets import Target

_ALWAYS_READ = frozenset({CELLS, "stat.npy"})  # small, and what people change; a copy may keep its old time
_OUTLINES = "stat.npy"
_DRAWN = frozenset({_OUTLINES, "F.npy", "Fneu.npy", "spks.npy"})  # suite2p writes these anew for a cell that was drawn
_FOLDER = "processed_data/"


def curated(changed: Collection[str]) -> list[str]:
    """Return which changed files of suite2p are people's work: chosen cells, and traces where a cell was drawn as well.

    Traces that changed alone, without the outlines beside them, are damaged.
    """
    drawn = {PurePosixPath(name).parent for name in changed if PurePosixPath(name).name == _OUTLINES}
    return sorted(
        name
        for name in changed
        if (path := PurePosixPath(name)).name == CELLS or (path.name in _DRAWN and path.parent in drawn)
    )


def edited(target: Target, pipeline: ProcessingPipelines) -> list[str]:
    """Return the files of a session's result that were changed since its record was written, by path in the session.

    Files are read where size or time of change differ, cells and outlines always. Where a later run may have written in
    their place, nothing can be said, and nothing is returned.
    """
    record = record_of(target, pipeline) if target.session else None
    return changed(target, record) if record is not None and stands(target, pipeline, record) else []


def changed(target: Target, record: dict[str, Any]) -> list[str]:
    """Return which files of a session's result that is in place differ from its record, as `edited` says it."""
    paths = target.paths
    folder = paths.results
    ended = datetime.fromisoformat(record["ended"]).timestamp()
    outputs = [output for output in record.get("outputs", []) if str(output["path"]).startswith(_FOLDER)]
    return [
        output["path"]
        for output in outputs
        if _changed(folder / output["path"].removeprefix(_FOLDER), output["size"], output["xxh3_128"], ended)
    ]


def _changed(path: Path, size: int, digest: str, ended: float) -> bool:
    """Whether a file has other contents than were recorded; one that is gone was not edited."""
    try:
        found = path.stat()
        if found.st_size != size:
            return True
        return (path.name in _ALWAYS_READ or found.st_mtime > ended) and file_digest(path) != digest
    except FileNotFoundError:
        return False
