"""Dataset forging: sessions as NWB files and tables, with an index over them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal

import xxhash

from flows.eligibility import Facts, obstacle, quality_objection
from flows.form import AnimalSessions
from flows.pipeline import dataset_pipeline, pipeline_flow
from flows.report import pages_after
from tasks.artifacts import connected_in_run
from tasks.client import Client
from tasks.compute_server import ComputeServer, this_computer
from tasks.reports import PipelineReport
from trackers.errors import BadInputError, NotEligibleError
from trackers.forging_settings import ForgingSettings
from trackers.graph import Job, Resources, Stage
from trackers.names import ProcessingPipelines

UnclearFrames = Literal["refuse", "from start", "from end", "one to one"]
_JOB_NAME = re.compile(r"[a-z0-9_.-]{1,63}[a-z0-9]")


@pipeline_flow(name="forging", run_name="forging {project}/{dataset}")
async def forging(
    project: str,
    dataset: str,
    sessions: AnimalSessions | None = None,
    animals: list[str] | None = None,
    server: ComputeServer | None = None,
    species: str = "",
    unclear_frames: UnclearFrames = "refuse",
    require_qc: bool = False,
    reprocess: bool = False,
    keep_job_logs: bool = False,
    requested_by: str = "",
) -> PipelineReport:
    """Forge sessions into a dataset: an NWB file and a table of each, one job a session, then an index over all.

    A session is eligible when its pipelines have been done. What a session lacks is left out of its files, and listed.
    Pages of its sessions that are older than their results are made anew.

    Args:
        project: The project's name.
        dataset: The dataset's name; it is made where there is none.
        sessions: The sessions, each as ANIMAL/SESSION; none: all that can be forged.
        animals: Of all sessions, only those of these animals.
        server: Where the data lies and the jobs run; none: this computer.
        species: Of the animals, in Latin, e.g. Mus musculus; empty: what the project's settings say.
        unclear_frames: What it means where the mesoscope's pulses and its frames do not go together.
        require_qc: Refuse sessions whose quality control has not been passed, or that have none.
        reprocess: Run also where it has succeeded before.
        keep_job_logs: Keep the jobs' logs after a success.
        requested_by: Who asks; shown with the locks and in the records.
    """
    server = server or this_computer()
    chosen = [_names(session) for session in sessions or []]
    wanted = {"species": species, "unclear_frames": "" if unclear_frames == "refuse" else unclear_frames}
    given = {name: value for name, value in wanted.items() if value}
    async with connected_in_run(server) as client:
        settings = await _settings(client, project, given)
        left_out: tuple[str, ...] = ()
        if not chosen:
            chosen, left_out = await _all_that_can_be_forged(client, project, animals or [], require_qc)
    async with dataset_pipeline(
        ProcessingPipelines.FORGING,
        *(server, project, dataset, chosen),
        settings={**settings, **({"this_run": given} if given else {})},
        reprocess=reprocess,
        keep_job_logs=keep_job_logs,
        requested_by=requested_by,
    ) as run:
        if require_qc:
            _refuse_poor_quality(run.facts)
        options = ("--settings", json.dumps(settings))
        # the arrays of one plane at a time are in memory, and a movie of two hours has a few GB of them
        resources = Resources(cpus=1, memory_gb=16, minutes=60, maximum_memory_gb=64, maximum_minutes=240)
        jobs = [
            Job(_job_name(name), run.program("forging", "--sessions", name, *options), resources, environment="forging")
            for name in run.settings["sessions"]
        ]
        without = ("--left-out", *left_out) if left_out else ()
        every = run.program("forging", "--index", "--sessions", *run.settings["sessions"], *options, *without)
        index = Job("index", every, Resources(cpus=1, memory_gb=4, minutes=20), environment="forging")
        made = await run(Stage("sessions", tuple(jobs)), Stage("index", (index,)))
    words = dict.fromkeys((*made.notes, *(f"left out: {each}" for each in left_out)))  # the index says so as well
    return await pages_after(replace(made, notes=tuple(words)), run)


def _names(session: str) -> tuple[str, str]:
    """Return the animal and the name of a session.

    Raises:
        BadInputError: it is not written so.
    """
    animal, _, name = session.partition("/")
    if not animal or not name or "/" in name:
        raise BadInputError(f"{session!r} names no session here: write ANIMAL/SESSION. Nothing was done.")
    return animal, name


async def _settings(client: Client, project: str, given: dict[str, str]) -> dict[str, Any]:
    """Return the project's settings, with what was given before them.

    Raises:
        BadInputError: the species is missing, or a setting makes no sense; nothing was done.
    """
    found = await client.ask("project_settings", project=project, pipeline=ProcessingPipelines.FORGING.name)
    settings: dict[str, Any] = {**found["settings"], **given}
    ForgingSettings.from_json(settings, found["path"])
    return settings


async def _all_that_can_be_forged(
    client: Client, project: str, animals: Collection[str], require_qc: bool
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Return the sessions that can be forged, and in words which are left out, and why."""
    rows: list[Facts] = await client.ask("status", project=project)
    meant = [row for row in rows if not animals or row["animal"] in animals]
    found, because = list[tuple[str, str]](), dict[str, list[str]]()
    for row in meant:
        reason = row["problem"] or obstacle(ProcessingPipelines.FORGING, row)
        if reason := reason or (quality_objection(row) if require_qc else ""):
            because.setdefault(reason, []).append(f"{row['animal']}/{row['session']}")
        else:
            found.append((row["animal"], row["session"]))
    left_out = [f"{', '.join(names)}: {' '.join(reason.split()).rstrip('.')}" for reason, names in because.items()]
    if not found:
        which = f" of {', '.join(animals)}" if animals else ""
        words = "; ".join(left_out) or "there is none"
        raise NotEligibleError(f"No session{which} of {project} can be forged: {words}. Nothing was done.")
    return found, tuple(left_out)


def _refuse_poor_quality(facts: Facts) -> None:
    reasons = {name: quality_objection(session) for name, session in facts["sessions"].items()}
    if refused := [f"{name}: {reason}" for name, reason in reasons.items() if reason]:
        raise NotEligibleError(
            f"{facts['target']} cannot be forged, because a pass of quality control is required: {'; '.join(refused)}. "
            "Nothing was done."
        )


def _job_name(session: str) -> str:
    """Return a job's name, unlike any other's: the session's own, then its animal's as far as job names can have it."""
    animal, name = _names(session)
    whole = f"{name}-{animal}"
    if _JOB_NAME.fullmatch(whole):
        return whole
    told_apart = f"-{xxhash.xxh32_hexdigest(animal.encode())}"
    return f"{name}-{re.sub('[^a-z0-9_.-]', '-', animal.lower())}"[: 64 - len(told_apart)] + told_apart
