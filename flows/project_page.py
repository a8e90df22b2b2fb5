"""A project's run for people: one artifact in Prefect, brought up to date in place, and a table for the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import re
import textwrap
import time
from dataclasses import dataclass
from typing import get_args
from uuid import UUID

import xxhash
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.utilities.urls import url_for
from rich import box
from rich.table import Table
from rich.text import Text

from flows.terminal import render, sentence, styled
from tasks.reports import ProjectReport, SessionOutcome, Standing

SECONDS_BETWEEN = 5.0
SECONDS_AT_MOST = 10.0  # a run that is being ended waits for nobody
LONGEST_WORDS, SHORTENED_WORDS = 400, 160  # of one session, in the artifact and in a terminal's table
WAITING = (
    "What waits runs again when its raw data's checksum, its settings or the version of sessionflow change, or when "
    "asked to: --rerun-failed."
)
_QUIET: tuple[Standing, ...] = (
    "done",
    "not ready",
)  # what nobody need look at comes last


@dataclass
class ProjectPage:
    """The artifact of one run; that it cannot be written never fails the run.

    Attributes:
        artifact: its id, None where it could not be made.
    """

    artifact: UUID | None
    _next: float = 0.0

    @classmethod
    async def begun(cls, report: ProjectReport) -> ProjectPage:
        """Write the plan."""
        artifact = None
        with contextlib.suppress(Exception):
            artifact = await acreate_markdown_artifact(
                markdown(report), artifact_key(report.project, "run"), f"A run of {report.project}"
            )
        return cls(artifact, time.monotonic() + SECONDS_BETWEEN)

    async def changed(self, report: ProjectReport) -> None:
        """Show how the sessions stand, unless that was shown a moment ago."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS_BETWEEN
            await self.ended(report)

    async def ended(self, report: ProjectReport) -> None:
        """Show how the sessions stand."""
        if self.artifact is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(SECONDS_AT_MOST), get_client() as client:
                    await client.update_artifact(self.artifact, ArtifactUpdate(data=markdown(report)))


def artifact_key(project: str, what: str = "project") -> str:
    """Return the key of a project's pages, of lowercase letters, digits and dashes; no two projects have the same.

    Args:
        project: its name.
        what: the first word: `project` for the page of all sessions, `run` for the pages of its runs.
    """
    key = re.sub(r"[^a-z0-9]+", "-", project.lower()).strip("-")
    told_apart = [] if key == project else [xxhash.xxh32_hexdigest(project.encode())]
    return "-".join([what, *([key] if key else []), *told_apart])


def markdown(report: ProjectReport) -> str:
    """Return a project's run as a page: what needs looking at first, what is quiet last."""
    loud = [outcome for kind in get_args(Standing) if kind not in _QUIET for outcome in report.standing(kind)]
    quiet = [outcome for kind in _QUIET for outcome in report.standing(kind)]
    title = "Plan" if report.dry_run else "Sessions"
    page = f"[All sessions × pipelines](/v2/artifacts/key/{artifact_key(report.project)})"  # no menu leads there
    lines = [f"# {title}: {_cell(report.project)}", "", f"{report.counts}. {page}"]
    if report.dry_run:
        lines += ["", "Nothing was done: this is what a run would do now."]
    if loud:
        lines += ["", "| animal | session | | pipelines | |", "|---|---|---|---|---|", *map(_row, loud)]
    if quiet:
        lines += ["", "## Nothing to do", "", "| animal | session | | |", "|---|---|---|---|"]
        lines += [f"| {_cell(o.animal)} | {o.session} | {o.standing} | {_cell(o.words)} |" for o in quiet]
    return "\n".join(lines)


def plan_table(report: ProjectReport) -> str:
    """Return a plan, or what was done, for the terminal; finished sessions are counted and not listed."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("animal", "session", "", "pipelines"):
        table.add_column(column, no_wrap=column in ("animal", "session", ""))
    table.add_column("", overflow="fold", ratio=1)
    listed = [outcome for outcome in report.sessions if outcome.standing != "done"]
    for outcome in listed:
        what = ", ".join(outcome.pipelines)
        words = textwrap.shorten(outcome.words, SHORTENED_WORDS, placeholder=" …")
        table.add_row(outcome.animal, outcome.session, styled(outcome.standing), what, Text(words))
    plan = "Nothing was done. " if report.dry_run else ""
    hint = [sentence(WAITING)] if report.standing("waiting") else []
    failures = [sentence(outcome.words) for outcome in report.standing("failed")]
    return "\n\n".join(
        [*([render(table)] if listed else []), *failures, *hint, f"{plan}{report.project}: {report.counts}."]
    )


def _row(outcome: SessionOutcome) -> str:
    link = url_for("flow-run", obj_id=outcome.flow_run_id) if outcome.flow_run_id else None
    standing = f"[{outcome.standing}]({link})" if link else outcome.standing
    cells = (_cell(outcome.animal), outcome.session, standing, ", ".join(outcome.pipelines), _cell(outcome.words))
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Return text as it is, in one line: what a job printed is no markup."""
    line = " ".join(text.split())
    line = line if len(line) <= LONGEST_WORDS else f"{line[:LONGEST_WORDS]} …"
    return re.sub(r"([\\|<>*_`\[\]#])", r"\\\1", line)
