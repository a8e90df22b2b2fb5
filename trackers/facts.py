"""What is known of a session or project, gathered in one go for those who decide: flows, the status table, people."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trackers.cameras import video_facts
from trackers.environments import hindering
from trackers.errors import BadInputError, FileSystemError, SessionflowError, TrackerCorruptError
from trackers.exclusions import exclusion_words, include_command
from trackers.known_settings import OF_SESSIONS, chosen, session_settings
from trackers.layout import SessionPaths
from trackers.mesoscope import read_mesoscope
from trackers.names import ProcessingPipelines, SessionTypes, validate_name, validate_session_name
from trackers.publication import stands
from trackers.quality import quality_objection
from trackers.results import own_version, raw_data_checksum
from trackers.session import Completeness, completeness, load_session
from trackers.site import Site
from trackers.stale import cells_chosen, record_of, staleness, tracked
from trackers.states import JobState
from trackers.submission import Submission
from trackers.targets import SESSION_PIPELINES, Target
from trackers.views import unfinished


def describe_dataset(target: Target, sessions: Sequence[Target]) -> dict[str, Any]:
    """Return all that a flow must know of a dataset, or of an animal in it, and of its sessions.

    `datasets` is the folder that its job programs are given, `settings` those of each pipeline's last success, and
    `sessions` what `describe` says of each.
    """
    return {
        "target": target.name,
        "datasets": str(target.site.datasets),
        "pipelines": {p.name: pipeline_facts(target, p) for p in target.pipelines},
        "settings": {result["pipeline"]: result.get("settings") for result in results(target)},
        "lock": lock_facts(target),
        "sessions": {session.name: describe(session) for session in sessions},
    }


def describe(target: Target, *, thorough: bool = False) -> dict[str, Any]:
    """Return all that a flow must know of a session before it builds its graph; one question instead of many.

    Args:
        target: the session.
        thorough: look for a second session_data.yaml in every folder.
    """
    paths = target.paths
    data = load_session(paths, thorough=thorough)
    whole = completeness(paths.raw_data)
    return {
        "target": target.name,
        "session_type": data.session_type.value,
        "acquisition_system": data.acquisition_system.value,
        "complete": whole is Completeness.COMPLETE,
        "completeness": whole.value,
        "one_volume": target.site.volumes.one,
        "prepared": _filled(paths.source_data),
        "archived": not target.site.volumes.one and _filled(paths.archived_data),
        "pipelines": {p.name: pipeline_facts(target, p, _settings(paths, p)) for p in SESSION_PIPELINES},
        **(_imaging(target) if data.session_type is SessionTypes.MESOSCOPE_EXPERIMENT else {}),
        **video_facts(target.site, paths),
        "lock": lock_facts(target),
        "excluded": (words := exclusion_words(paths)),
        "include": include_command(paths) if words else "",
        "quality_objection": quality_objection(paths),
        "own_datasets": str(target.site.datasets),
        "tracked": tracked(target),
        "report_problem": _lack(target.site, "report"),
    }


def _settings(paths: SessionPaths, pipeline: ProcessingPipelines) -> dict[str, Any]:
    """Return what a pipeline would be told now, or in words what is wrong with the files that say it."""
    if pipeline not in OF_SESSIONS:
        return {}
    try:
        return {"settings": chosen(pipeline, session_settings(paths, pipeline)), "settings_problem": ""}
    except (SessionflowError, OSError) as error:
        return {"settings": {}, "settings_problem": str(error)}


def _imaging(target: Target) -> dict[str, Any]:
    """Return what suite2p must know: how many planes there are, or why that cannot be said; what it lacks.

    `cells_chosen` is when people last changed which of its result are cells.
    """
    return {
        **_recording(target.paths),
        "suite2p_problem": _lack(target.site, "suite2p"),
        "cells_chosen": cells_chosen(target),
    }


def _lack(site: Site, pipeline: str) -> str:
    """Say that a pipeline's environment is not there, and what to do; empty where it is, or need not be."""
    lack = hindering(site, pipeline)
    return f"{lack.problem} ({lack.remedy})" if lack else ""


def _recording(paths: SessionPaths) -> dict[str, Any]:
    if not _filled(paths.source_data):
        return {"planes": 0, "recording_problem": ""}
    try:
        return {"planes": read_mesoscope(paths.source_data / "mesoscope_data" / "ops.json").planes} | {
            "recording_problem": ""
        }
    except SessionflowError as error:
        return {"planes": 0, "recording_problem": str(error)}


def pipeline_facts(
    target: Target, pipeline: ProcessingPipelines, settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return what tracker, newest submission and result record say of one pipeline.

    Args:
        target: a session, dataset or project.
        pipeline: one that works on it.
        settings: see `_settings`; they are part of what is returned.
    """
    facts: dict[str, Any] = {"status": "", "manager_id": -1, "problem": "", "ended": "", "seconds": None, "reason": ""}
    facts |= {"stale": "", **(settings or {})}
    submission = None
    try:
        state = target.tracker(pipeline).read()
        facts["manager_id"] = state.manager_id
        facts["status"] = (
            "running"
            if state.running
            else "succeeded"
            if state.complete
            else "failed"
            if state.encountered_error
            else ""
        )
    except (TrackerCorruptError, FileSystemError) as error:
        facts["status"], facts["problem"] = "corrupt", str(error)
    with contextlib.suppress(SessionflowError, OSError):
        if submission := target.submissions(pipeline).current():
            facts["submission"] = submission.name
            facts["ended"], facts["reason"] = submission.ended, submission.reason
            facts["seconds"] = _seconds(submission)
            facts["flow_run_id"] = submission.flow_run_id
            facts["failure"] = _failure(target, submission) if submission.status == "failed" else None
    record = record_of(target, pipeline)
    facts |= _kept(target, pipeline, submission, record, str(facts["status"]))
    if facts["status"] == "succeeded":
        now = facts.get("settings") if not facts.get("settings_problem") else None
        facts["stale"] = staleness(target, pipeline, submission, now)
    if facts["usable"] and settings is not None and record:
        facts["made_with"] = record.get("settings")
    return facts


def _kept(
    target: Target,
    pipeline: ProcessingPipelines,
    submission: Submission | None,
    record: dict[str, Any] | None,
    status: str,
) -> dict[str, Any]:
    """Return what is known of a result that later runs were to replace and did not.

    `usable`: a whole result is in place. `kept`: since when, where what failed since had settings of its own run's.
    `ended`: when it was made, where a later run was ended. `counts`: since when, where what ran since has failed.
    """
    usable = status == "succeeded" or (record is not None and stands(target, pipeline, record))
    if not usable or record is None or submission is None or submission.name == record.get("submission"):
        return {"usable": usable, "kept": ""}
    if status == "succeeded":
        return {"usable": usable, "kept": "", "ended": record.get("ended", "")}
    made = record.get("ended", "")
    kept = made if submission.settings.get("this_run") else ""
    return {"usable": usable, "kept": kept, "counts": made if status == "failed" else ""}


def lock_facts(target: Target) -> dict[str, Any]:
    """Return who holds the session, for machines and for people."""
    try:
        state = target.lock.read()
    except (TrackerCorruptError, FileSystemError) as error:
        return {"manager_id": None, "holder": None, "description": str(error), "corrupt": True}
    holder = asdict(state.holder) if state.holder else None
    return {"manager_id": state.manager_id, "holder": holder, "description": state.describe(), "corrupt": False}


def project_status(site: Site, project: str, animal: str = "") -> list[dict[str, Any]]:
    """Return one row per session: what it is, and how each pipeline stands; broken sessions have a `problem`.

    An animal whose folder cannot be read has one row, with that problem and no session.

    Raises:
        NotFoundError: there is no such project or animal.
    """
    target = Target.from_json(site, {"project": project})
    if animal:
        validate_name(animal, "animal")
        if not (target.project_paths.directory / animal).is_dir():
            raise BadInputError(
                f"There is no animal {animal!r} in {target.project_paths.directory}. Nothing was touched."
            )
    unreadable: dict[str, str] = {}
    rows = [_row(Target(site, project, a, s)) for a, s in sessions_of(target, animal, unreadable)]
    return [*rows, *({"animal": a, "session": "", "problem": words} for a, words in unreadable.items())]


def sessions_of(target: Target, animal: str = "", unreadable: dict[str, str] | None = None) -> list[tuple[str, str]]:
    """Return animal and name of every session of a project, sorted; folders that cannot be sessions are passed over.

    Args:
        target: the project.
        animal: only this animal's.
        unreadable: is given the animals whose folders cannot be read, with the error.
    """
    found = []
    for animal_directory in _folders(target.project_paths.directory):
        if animal and animal_directory.name != animal:
            continue
        try:
            sessions = _folders(animal_directory)
        except OSError as error:
            if unreadable is not None:
                unreadable[animal_directory.name] = (
                    f"{animal_directory} cannot be read: {error.strerror}. Its sessions are left out."
                )
            continue
        for session_directory in sessions:
            with contextlib.suppress(BadInputError):
                validate_name(animal_directory.name, "animal")
                validate_session_name(session_directory.name)
                if _may_be_folder(session_directory / "raw_data"):
                    found.append((animal_directory.name, session_directory.name))
    return sorted(found, key=lambda item: (_natural(item[0]), item[1]))


def datasets_of(project: Target) -> Iterator[Target]:
    """Yield this account's datasets of a project, each followed by the animals in it; other folders are passed over."""
    try:
        folders = _folders(project.site.datasets / project.project)
    except OSError:
        return
    for folder in folders:
        dataset = Target(project.site, project.project, dataset=folder.name)
        inside = [
            Target(project.site, project.project, animal.name, dataset=folder.name) for animal in _folders(folder)
        ]
        for target in (dataset, *inside):
            with contextlib.suppress(BadInputError):
                files = (target.dataset_paths.lock, *(target.tracker(p).file_path for p in target.pipelines))
                if any(path.exists() for path in files):
                    yield target


def history(target: Target) -> list[dict[str, Any]]:
    """Return every submission of a target, oldest first, with the end of each attempt at each job.

    `unfinished` has all that is known of the jobs that did not succeed.
    """
    rows: list[dict[str, Any]] = []
    for folder in target.all_submissions().values():
        for number in folder.numbers():
            try:
                submission = folder.read(number)
            except TrackerCorruptError as error:
                rows.append({"name": str(folder.submission_directory(number)), "opened": "", "problem": str(error)})
                continue
            rows.append(
                {
                    "name": submission.name,
                    "pipeline": submission.pipeline.value,
                    "status": submission.status,
                    "opened": submission.opened,
                    "ended": submission.ended,
                    "requested_by": submission.requested_by,
                    "flow_run_id": submission.flow_run_id,
                    "jobs": {
                        job: [f"{a.state.value}{': ' + a.reason if a.reason else ''}" for a in attempts]
                        for job, attempts in submission.attempts.items()
                    },
                    "unfinished": unfinished(folder, submission),
                }
            )
    return sorted(rows, key=lambda row: str(row["opened"]))


def results(target: Target) -> list[dict[str, Any]]:
    """Return the result records of a target."""
    found = []
    for path in sorted((target.state_directory / "results").glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(path.read_bytes())
            if isinstance(record, dict) and record.get("pipeline"):
                found.append(record)
    return found


def _row(target: Target) -> dict[str, Any]:
    row: dict[str, Any] = {"animal": target.animal, "session": target.session, "problem": ""}
    row["excluded"] = exclusion_words(target.paths)
    try:
        return {**row, **describe(target), "notes": _notes(target.paths)}
    except (SessionflowError, OSError) as error:
        return {**row, "problem": str(error)}


def _notes(paths: SessionPaths) -> str:
    from trackers.files import load_yaml

    with contextlib.suppress(OSError, SessionflowError):
        return str(load_yaml(paths.raw_data / "session_descriptor.yaml", "").get("experimenter_notes") or "")
    return ""


def _failure(target: Target, submission: Submission) -> dict[str, Any]:
    """Return what a pipeline failed with and would run with now, and how its jobs ended that did not succeed.

    Jobs that never began for another one's failure are left out.
    """
    ends = {job: submission.last(job) for job in submission.attempts if not submission.succeeded(job)}
    return {
        "digest": submission.digest,
        "with": {"version": submission.code_version, "raw_data_checksum": submission.raw_data_checksum},
        "now": {"version": own_version(), "raw_data_checksum": raw_data_checksum(target)},
        "jobs": [
            {"name": job, "state": end.state.value, "exit_code": end.exit_code, "reason": end.reason}
            for job, end in ends.items()
            if end.state is not JobState.CANCELLED
        ],
    }


def _filled(directory: Path) -> bool:
    try:
        return any(directory.iterdir())
    except OSError:
        return False


def _may_be_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:  # whoever opens the session says so
        return True


def _folders(directory: Path) -> list[Path]:
    return sorted(p for p in directory.iterdir() if p.is_dir() and not p.name.startswith("."))


def _natural(animal: str) -> tuple[int, int, str]:
    return (0, int(animal), animal) if animal.isdecimal() else (1, 0, animal)


def _seconds(submission: Submission) -> float | None:
    from datetime import datetime

    if not submission.ended:
        return None
    return (datetime.fromisoformat(submission.ended) - datetime.fromisoformat(submission.opened)).total_seconds()
