"""A project on one page: how every pipeline stands on every session, when, in which run, and what would run next.

It is one artifact for each project, under *Artifacts* in Prefect, that belongs to no run and is brought up to date in
place whenever the project's manifest is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL

from flows.eligibility import TYPES, Facts
from flows.project_look import Look
from flows.project_page import artifact_key
from flows.project_plan import Choice
from tasks.artifacts import connected_in_run
from tasks.compute_server import ComputeServer, this_computer
from tasks.pages import plain, table
from tasks.reports import SessionOutcome
from trackers.names import ProcessingPipelines
from trackers.targets import SESSION_PIPELINES

SECONDS_AT_MOST = 20.0  # for all of it: the page is a courtesy of the run that brings it up to date
LONGEST_WORDS = 160  # of one session
_SIGNS = {"succeeded": "✓", "failed": "**failed**", "running": "running", "corrupt": "**tracker unreadable**", "": ""}
LEGEND = (
    "✓ succeeded, – does not apply to this type of session, empty: not done yet. A date (UTC) leads to the run. *next* "
    "is what `process-project` would run now, or why it would not."
)


async def show_project(project: str, server: ComputeServer | None) -> None:
    """Bring a project's page up to date; that it cannot be written never fails the run."""
    if not PREFECT_API_URL.value():  # a temporary server's pages end with it
        return
    try:
        async with asyncio.timeout(SECONDS_AT_MOST), connected_in_run(server or this_computer()) as client:
            await _put(project, grid(project, await Look(client, project, Choice.of()).table()))
    except Exception as error:  # of many kinds, and none of them is the run's concern
        get_run_logger().warning("The page of %s is as it was: %s", project, str(error) or type(error).__name__)


def grid(project: str, sessions: Sequence[tuple[Facts, SessionOutcome]]) -> str:
    """Return the page of a project, the sessions in their order.

    Args:
        project: its name.
        sessions: what is known of each, and what would be done with it.
    """
    columns = ("animal", "session", "type", *(p.name.lower() for p in SESSION_PIPELINES), "next")
    rows = [_row(facts, outcome) for facts, outcome in sessions]
    counts = dict[str, int]()
    for _, outcome in sessions:
        counts[outcome.standing] = counts.get(outcome.standing, 0) + 1
    said = ", ".join(f"{number} {standing}" for standing, number in counts.items())
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    lines = [f"# {plain(project)}", f"{len(rows)} sessions{': ' if rows else ''}{said}. As of {now}."]
    if rows:
        lines += [table(columns, rows), LEGEND]
    return "\n\n".join(lines)


def _row(facts: Facts, outcome: SessionOutcome) -> tuple[str, ...]:
    words = outcome.words if len(outcome.words) <= LONGEST_WORDS else f"{outcome.words[:LONGEST_WORDS]} …"
    if outcome.standing == "to run":
        following = ", ".join(outcome.pipelines)
    else:
        following = outcome.standing + (f": {plain(words)}" if words else "")
    described = "pipelines" in facts
    cells = [_cell(facts, pipeline) if described else "" for pipeline in SESSION_PIPELINES]
    kind = str(facts["session_type"]) if described else ""
    return (plain(outcome.animal), outcome.session, kind, *cells, following)


def _cell(facts: Facts, pipeline: ProcessingPipelines) -> str:
    if facts["session_type"] not in TYPES[pipeline]:
        return "–"
    state = facts["pipelines"][pipeline.name]
    day = str(state["ended"])[:10]
    run = state.get("flow_run_id")
    if run:
        day = f"[{day or 'run'}](/runs/flow-run/{run})"
    counts = f"; the result of {state['counts'][:10]} counts" if state.get("counts") else ""
    return f"{_SIGNS[state['status']]} {day}{counts}".strip()


async def _put(project: str, text: str) -> None:
    key, title = artifact_key(project), f"{project}: sessions and pipelines"
    of_project = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    async with get_client() as client:
        # not /artifacts/KEY/latest, whose id is that of the key's collection
        found = await client.read_artifacts(artifact_filter=of_project, sort=ArtifactSort.CREATED_DESC, limit=1)
        if found:
            await client.update_artifact(found[0].id, ArtifactUpdate(data=text, description=title))
            return
        body = {"key": key, "type": "markdown", "description": title, "data": text}
        await client.request("POST", "/artifacts/", json=body)
