"""What is forged, against what its pipelines recorded: nothing purged, nothing changed but by people who curated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from jobs.copying import some
from jobs.forging_sources import IMAGING
from jobs.hashing import digests
from trackers.commands import again, run
from trackers.curation import curated
from trackers.errors import JobFailedError, SessionDataError
from trackers.layout import SessionPaths
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
        taken = [name for name in made if PurePosixPath(name).suffix in _TAKEN]
        gone = [name for name in taken if not (folder / name).exists()]
        found = digests(folder, [name for name in taken if name not in gone])
        other = [name for name, digest in found.items() if digest.xxh3_128.hex() != made[name]]
        by_people += curated(other) if pipeline is ProcessingPipelines.SUITE2P else []
        other = [name for name in other if name not in by_people]
        missing, changed = missing + gone, changed + other
        remedies += [again(pipeline, paths, changed=bool(other))] if gone or other else []
    if missing or changed:
        words = [f"{len(missing)} are missing: {some(missing)}"] if missing else []
        words += [f"{len(changed)} have other contents: {some(changed)}"] if changed else []
        raise JobFailedError(
            f"Of the files that {paths} is forged from, {'; '.join(words)}. Nothing was written. Have them made again: "
            f"{' && '.join(remedies)}"
        )
    imaged = (folder / IMAGING).is_dir()
    wanted = [p for p in MADE_OF if imaged or p is not ProcessingPipelines.SUITE2P]
    unknown = [p.name.lower() for p in wanted if p not in records]
    return [
        *([f"curated by people since suite2p wrote it: {some(by_people)}"] if by_people else []),
        *([f"not verified, because there is no record of it: {', '.join(unknown)}"] if unknown else []),
    ]
