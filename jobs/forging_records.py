"""What is forged, against what its pipelines recorded: nothing purged, nothing changed but by people who curated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from jobs.copying import some
from jobs.forging_multiday import CELLS
from jobs.forging_sources import IMAGING
from jobs.hashing import digests
from trackers.commands import again, run, track_again
from trackers.curation import curated
from trackers.errors import JobFailedError, SessionDataError
from trackers.layout import DatasetPaths, SessionPaths
from trackers.names import ProcessingPipelines

MADE_OF = (ProcessingPipelines.BEHAVIOR, ProcessingPipelines.SUITE2P, ProcessingPipelines.VIDEO)
_TAKEN = frozenset({".feather", ".npy", ".json"})  # movies are not forged
_FOLDER = "processed_data/"

Record = Mapping[str, Any]


def records_of(paths: SessionPaths) -> dict[ProcessingPipelines, Record]:
    """Return the result records of the pipelines that a session is forged from; those that there are.

    Raises:
        SessionDataError: one cannot be read.
    """
    found: dict[ProcessingPipelines, Record] = {}
    for pipeline in MADE_OF:
        path = paths.tracking_data / "results" / f"{pipeline.name}.json"
        try:
            found[pipeline] = json.loads(path.read_bytes())
            datetime.fromisoformat(found[pipeline]["ended"])
        except FileNotFoundError:
            continue
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise SessionDataError(
                f"{path} is no result record ({error!r}). Nothing was written. Have it made again: "
                f"{run(pipeline, paths, '--reprocess')}"
            ) from None
    return found


def verify(paths: SessionPaths, records: Mapping[ProcessingPipelines, Record]) -> list[str]:
    """Compare what is forged with the records of what was made; return what people must know.

    What people changed in suite2p's window since is taken, and said; see `trackers.curation.curated`.

    Raises:
        JobFailedError: a file is missing, e.g. because a scratch volume was purged, or has other contents.
    """
    folder = paths.results
    missing: list[str] = []
    changed: list[str] = []
    by_people: list[str] = []
    remedies: list[str] = []
    for pipeline, record in records.items():
        made = {str(o["path"]).removeprefix(_FOLDER): str(o["xxh3_128"]) for o in record.get("outputs", [])}
        taken = {name: digest for name, digest in made.items() if PurePosixPath(name).suffix in _TAKEN}
        gone, other = _compared(folder, taken)
        by_people += curated(other) if pipeline is ProcessingPipelines.SUITE2P else []
        other = [name for name in other if name not in by_people]
        missing, changed = missing + gone, changed + other
        remedies += [again(pipeline, paths, changed=bool(other))] if gone or other else []
    if missing or changed:
        raise _refusal(f"files that {paths}", missing, changed, " && ".join(remedies))
    imaged = (folder / IMAGING).is_dir()
    wanted = [p for p in MADE_OF if imaged or p is not ProcessingPipelines.SUITE2P]
    unknown = [p.name.lower() for p in wanted if p not in records]
    return [
        *([f"curated by people since suite2p wrote it: {some(by_people)}"] if by_people else []),
        *([f"not verified, because there is no record of it: {', '.join(unknown)}"] if unknown else []),
    ]


def verify_tracked(dataset: DatasetPaths, session: SessionPaths) -> list[str]:
    """Compare what multi-day processing made of a session with its record; return what people must know.

    Args:
        dataset: the animal's place in it.
        session: which one is forged.

    Raises:
        SessionDataError: the record cannot be read.
        JobFailedError: a file is missing, e.g. because a scratch volume was purged, or has other contents.
    """
    path = dataset.directory / "results" / f"{ProcessingPipelines.MULTIDAY.name}.json"
    try:
        record = json.loads(path.read_bytes())
        made = {str(each["path"]): str(each["xxh3_128"]) for each in record["outputs"]}
        sessions = [name.partition("/")[2] for name in record["settings"]["sessions"]]
    except FileNotFoundError:
        there = (dataset.directory / CELLS).exists()
        return ["not verified, because there is no record of it: multiday"] if there else []
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SessionDataError(
            f"{path} is no result record ({error!r}). Nothing was written. Run multi-day processing again."
        ) from None
    if session.session not in sessions:
        return []
    taken = {name: made[name] for name in made if name == CELLS or name.startswith(f"{session.session}/")}
    gone, other = _compared(dataset.directory, taken)
    if gone or other:
        remedy = track_again(session.volumes, dataset, sessions)
        raise _refusal(f"files of multi-day processing that {session}", gone, other, remedy)
    return []


def _compared(folder: Path, made: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return which files of a record (path: xxh3-128) are missing, and which have other contents."""
    gone = [name for name in made if not (folder / name).exists()]
    found = digests(folder, [name for name in made if name not in gone])
    return gone, [name for name, digest in found.items() if digest.xxh3_128.hex() != made[name]]


def _refusal(files: str, missing: list[str], changed: list[str], remedy: str) -> JobFailedError:
    words = [f"{len(missing)} are missing: {some(missing)}"] if missing else []
    words += [f"{len(changed)} have other contents: {some(changed)}"] if changed else []
    return JobFailedError(
        f"Of the {files} is forged from, {'; '.join(words)}. Nothing was written. Have them made again: {remedy}"
    )
