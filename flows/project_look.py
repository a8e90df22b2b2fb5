"""How the sessions of a project stand now: one question to the server side, one to Prefect, then the rules."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL

from flows.eligibility import Facts
from flows.project_plan import Choice, outcome_of
from tasks.client import Client
from tasks.lease import Asked, liveness
from tasks.reports import SessionOutcome
from trackers.errors import SessionflowError
from trackers.manager import NOBODY
from trackers.ownership import SWEEP

SESSION_FLOW = "process-session"
SOON, JUST_NOW = timedelta(hours=1), timedelta(minutes=10)
REMEMBERED_SECONDS = 5.0  # what Prefect said of launched runs
_PAGE = 200
_BEFORE = ("SCHEDULED", "PENDING")


@dataclass
class Look:
    """Looks at a project's sessions in the light of what was asked for."""

    client: Client
    project: str
    choice: Choice
    _launched: dict[tuple[str, str], FlowRun] = field(default_factory=dict)
    _launched_asked: float = -REMEMBERED_SECONDS
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def all(self) -> list[SessionOutcome]:
        """Return how every chosen session stands, the newest first; see `table`."""
        return [outcome for _, outcome in await self.table()]

    async def table(self) -> list[tuple[Facts, SessionOutcome]]:
        """Return what is known of every chosen session, with how it stands, the newest first.

        Whatever the number, the server is asked once.

        Raises:
            BadInputError: there is no such project, animal or session.
        """
        rows = self.choice.rows(self.project, await self.client.ask("status", project=self.project))
        asked: Asked = {}
        return [(row, await self._outcome(row, asked)) for row in rows]

    async def again(self, outcome: SessionOutcome) -> SessionOutcome:
        """Return how one session stands by now; in a long run, others may have been there meanwhile."""
        names: dict[str, str] = {"animal": outcome.animal, "session": outcome.session}
        try:
            facts = await self.client.ask("describe", project=self.project, **names)
        except SessionflowError as error:
            return SessionOutcome(outcome.animal, outcome.session, "problem", str(error))
        return await self._outcome({**names, "problem": "", **facts}, {})

    async def _outcome(self, row: Facts, asked: Asked) -> SessionOutcome:
        holder, dead = "", False
        swept = not row["problem"] and (row["lock"]["holder"] or {}).get("pipeline") == SWEEP  # for a moment only
        if not row["problem"] and row["lock"]["manager_id"] != NOBODY and not swept:
            word, words = await liveness(row["lock"]["holder"], asked)
            dead = word == "dead"
            holder = "" if dead else f"locked by {row['lock']['description']}. {words}"
        run = (await self._runs()).get((row["animal"], row["session"]))
        if run is not None and dead and (row["lock"]["holder"] or {}).get("flow_run_id") == str(run.id):
            run = None  # Prefect has not been told yet that it died
        return outcome_of(row, self.choice, holder, _words(run) if run else "")

    async def _runs(self) -> dict[tuple[str, str], FlowRun]:
        """Return the launched run of each session that has one, as it was a moment ago."""
        async with self._asking:
            if time.monotonic() - self._launched_asked > REMEMBERED_SECONDS:
                with contextlib.suppress(Exception):  # no answer is no answer; the locks keep two apart
                    self._launched = await launched_runs(self.project)
                self._launched_asked = time.monotonic()
            return self._launched


async def launched_runs(project: str) -> dict[tuple[str, str], FlowRun]:
    """Return the runs of sessions that somebody launched and that wait or have just begun, by animal and session.

    One that has worked for longer holds its session's lock, which says more; a temporary server has none.
    """
    if not PREFECT_API_URL.value():
        return {}
    now, found = datetime.now(UTC), dict[tuple[str, str], FlowRun]()
    filters: dict[str, Any] = {
        "deployment_id": {"is_null_": False},
        "parent_task_run_id": {"is_null_": True},
        "state": {"type": {"any_": [*_BEFORE, "RUNNING"]}},
        "expected_start_time": {"before_": now + SOON},
    }
    async with get_client() as client:
        for offset in range(0, 100 * _PAGE, _PAGE):
            runs = await client.read_flow_runs(
                flow_filter=FlowFilter.model_validate({"name": {"any_": [SESSION_FLOW]}}),
                flow_run_filter=FlowRunFilter.model_validate(filters),
                limit=_PAGE,
                offset=offset,
            )
            for run in runs:
                waits = run.state is not None and run.state.type.value in _BEFORE
                fresh = run.start_time is not None and run.start_time > now - JUST_NOW
                if run.parameters.get("project") == project and (waits or fresh):
                    found[str(run.parameters.get("animal")), str(run.parameters.get("session"))] = run
            if len(runs) < _PAGE:
                break
    return found


def _words(run: FlowRun) -> str:
    who = run.parameters.get("requested_by")
    state = run.state.name if run.state and run.state.name else "waiting"
    return f"its own run {run.name} is {state.lower()}{f', asked for by {who} (unverified)' if who else ''}"
