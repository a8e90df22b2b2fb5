"""Whether a result would come out otherwise today: other settings, raw data, sources or libraries than then."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trackers.errors import SessionflowError
from trackers.graph import PYTHON
from trackers.known_settings import KNOWN, chosen, project_settings
from trackers.names import ProcessingPipelines
from trackers.results import file_digest, raw_data_checksum
from trackers.site import Site
from trackers.submission import Submission
from trackers.targets import Target

_JUDGED = (
    ProcessingPipelines.BEHAVIOR,
    ProcessingPipelines.SUITE2P,
    ProcessingPipelines.VIDEO,
    ProcessingPipelines.MULTIDAY,
    ProcessingPipelines.FORGING,
)
_SOURCES = {  # of the pipelines that work on datasets: what they take from each session
    ProcessingPipelines.MULTIDAY: (ProcessingPipelines.SUITE2P,),
    ProcessingPipelines.FORGING: (
        ProcessingPipelines.BEHAVIOR,
        ProcessingPipelines.SUITE2P,
        ProcessingPipelines.VIDEO,
    ),
}
CELLS = "iscell.npy"  # of a plane of suite2p: what people change
_FOLDER = "processed_data/"
_NO_LIBRARY = ("python",)  # the server side's own, which makes no result


def record_of(target: Target, pipeline: ProcessingPipelines) -> dict[str, Any] | None:
    """Return the result record of a pipeline; None where there is none that can be read."""
    try:
        record = json.loads(target.result(pipeline).read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def tracked(session: Target) -> str:
    """Return when the newest multi-day result that has a session was made, UTC, ISO 8601; empty where none has it."""
    root, project, animal = session.site.datasets, session.project, session.animal
    folders = (root / project).glob(f"*/{animal}/{session.session}")
    datasets = (Target(session.site, project, animal, dataset=folder.parts[-3]) for folder in folders)
    records = (record_of(dataset, ProcessingPipelines.MULTIDAY) for dataset in datasets)
    return max((str(record.get("ended", "")) for record in records if record), default="")


def cells_chosen(session: Target) -> str:
    """Return when people last chose other cells than suite2p had, UTC, ISO 8601; empty where its result is as it was.

    By the times of `iscell.npy`: one that was put back with the time of an older copy is not noticed.
    """
    if (record := record_of(session, ProcessingPipelines.SUITE2P)) is None:
        return ""
    found = [""]
    for output in record.get("outputs", []):
        path = session.paths.results / str(output["path"]).removeprefix(_FOLDER)
        if path.name == CELLS:
            with contextlib.suppress(OSError):
                changed = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
                if changed > str(record.get("ended")) and file_digest(path) != output.get("xxh3_128"):
                    found.append(changed)
    return max(found)


def staleness(
    target: Target, pipeline: ProcessingPipelines, submission: Submission | None, settings: Mapping[str, Any] | None
) -> str:
    """Say why a success would come out otherwise today: `because tau is 0.7 and was 1.0`; empty where it would not.

    What one run was told to do otherwise than the files say is no reason: somebody wanted it so.

    Args:
        target: a session or dataset.
        pipeline: that has succeeded there.
        submission: the last one, whose jobs' environments are looked into; None: versions are not compared.
        settings: what files say now, where it differs from the library; None: the pipeline has none, or they are wrong.
    """
    record = record_of(target, pipeline) if pipeline in _JUDGED else None
    if record is None:
        return ""
    reasons = [
        *(_settings(pipeline, record, settings) if settings is not None else ()),
        *(_forging_settings(target, record) if pipeline is ProcessingPipelines.FORGING else ()),
        *_inputs(target, record),
        *_sources(target, pipeline, record),
        *(_versions(target.site, submission, record) if submission is not None else ()),
    ]
    return f"because {'; '.join(reasons)}" if reasons else ""


def _settings(pipeline: ProcessingPipelines, record: dict[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    made = record.get("settings") or {}
    before, told = made.get("settings"), made.get("this_run") or {}
    if isinstance(before, dict):
        yield from _compared(pipeline, before, now, told)


def _forging_settings(target: Target, record: dict[str, Any]) -> Iterator[str]:
    """Compare what the project's files say of forging with what a dataset was made with; wrong files say nothing."""
    made = record.get("settings") or {}
    before = {name: value for name, value in made.items() if name in KNOWN[ProcessingPipelines.FORGING]}
    with contextlib.suppress(SessionflowError, OSError):
        now = chosen(ProcessingPipelines.FORGING, project_settings(target.project_paths, ProcessingPipelines.FORGING))
        yield from _compared(ProcessingPipelines.FORGING, before, now, made.get("this_run") or {})


def _compared(
    pipeline: ProcessingPipelines, before: Mapping[str, Any], now: Mapping[str, Any], told: Mapping[str, Any]
) -> Iterator[str]:
    for name in sorted({*before, *now} - set(told)):
        default = KNOWN[pipeline][name].default if name in KNOWN[pipeline] else None
        value, was = now.get(name, default), before.get(name, default)
        if value != was:
            yield f"{name} is {json.dumps(value)} and was {json.dumps(was)}"


def _inputs(target: Target, record: dict[str, Any]) -> Iterator[str]:
    before, now = (record.get("inputs") or {}).get("raw_data_checksum"), raw_data_checksum(target)
    if before and now and before != now:
        yield f"the checksum of the raw data is {now} and was {before}"


def _sources(target: Target, pipeline: ProcessingPipelines, record: dict[str, Any]) -> Iterator[str]:
    """Compare when a dataset's sources were made with when it was begun; both times are UTC in ISO 8601."""
    sessions = [str(name) for name in (record.get("settings") or {}).get("sessions") or ()]
    if pipeline is ProcessingPipelines.FORGING:
        for animal in sorted({name.partition("/")[0] for name in sessions}):
            tracking = record_of(
                Target(target.site, target.project, animal, dataset=target.dataset), ProcessingPipelines.MULTIDAY
            )
            if tracking and str(tracking.get("ended")) > str(record.get("opened")):
                yield f"the result of multiday of {animal} is newer"
    for name in sessions:
        animal, _, session = name.partition("/")
        taken = Target(target.site, target.project, animal, session)
        for source in _SOURCES.get(pipeline, ()):
            made = record_of(taken, source)
            if made and str(made.get("ended")) > str(record.get("opened")):
                yield f"the result of {source.name.lower()} of {name} is newer"
        if cells_chosen(taken) > str(record.get("opened")):
            yield f"people have chosen other cells of {name} since"


def _versions(site: Site, submission: Submission, record: dict[str, Any]) -> Iterator[str]:
    there: dict[str, str] = {}
    for name in {job.environment for job in submission.graph.jobs() if PYTHON in job.command}:
        if not site.environment(name).activate:
            python = site.interpreter(name)
            there |= _distributions(Path(sys.prefix if python == sys.executable else Path(python).parent.parent))
    for name, before in (record.get("versions") or {}).items():
        now = there.get(_normal(name), before)
        if name not in _NO_LIBRARY and now != before:
            yield f"{name} is {now} and was {before}"


def _distributions(prefix: Path) -> dict[str, str]:
    """Return the version of each distribution in an environment, without starting it."""
    found: dict[str, str] = {}
    for folder in prefix.glob("lib/python*/site-packages"):
        found |= _installed(folder, folder.stat().st_mtime_ns)
    return found


@functools.lru_cache(maxsize=16)
def _installed(folder: Path, _changed: int) -> dict[str, str]:
    names = (path.name.removesuffix(".dist-info").rpartition("-") for path in folder.glob("*.dist-info"))
    return {_normal(name): version for name, _, version in names}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
