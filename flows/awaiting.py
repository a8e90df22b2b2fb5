"""A run that was launched before its session was complete: it gives its place back, and begins when the data is there.

The run is suspended under the name *Awaiting data*: it costs no worker and holds no lock, is not terminal, so that
launching again returns it, and can be cancelled. The arrival watch (`flows.arrival`) resumes it.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.logging import get_run_logger
from prefect.states import Suspended
from prefect.utilities.engine import propose_state

from flows.eligibility import Facts, excluded
from flows.pipeline import Connection
from trackers.errors import NotFoundError, SessionDataError
from trackers.session import Completeness

AWAITING = "AwaitingData"  # the name of the state
LONGEST_SECONDS = 30 * 24 * 3600  # then Prefect fails the run


async def described(connection: Connection) -> Facts:
    """Describe a session; if it is not complete yet, end this attempt at a run that can begin again later.

    Only a run of a deployment can, and only where it is not part of another one: what else is called for an
    incomplete session goes on, and says that it is incomplete, or not there.

    Raises:
        Pause: to Prefect, that the run is suspended.
        BadInputError: there is no such project, or what the session says of itself is wrong; nothing was touched.
    """
    try:
        facts = await connection.describe()
    except (NotFoundError, SessionDataError):  # of what has not been copied yet, or not to its end
        if _can_begin_again():
            await _suspend((await connection.client.ask("awaited", **connection.target))["lacking"])
        raise
    if facts["completeness"] == Completeness.INCOMPLETE and not excluded(facts) and _can_begin_again():
        await _suspend(facts["completeness"])
    return facts


def _can_begin_again() -> bool:
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return run is not None and run.deployment_id is not None and run.parent_task_run_id is None


async def _suspend(lacking: str) -> None:
    """Suspend the present run until the session has what it lacks; where that is nothing, go on."""
    context = FlowRunContext.get()
    if not lacking or context is None or context.flow_run is None:
        return
    message = f"{lacking}. The run begins when the data is complete."
    state: State[Any] = Suspended(timeout_seconds=LONGEST_SECONDS, pause_key=f"{AWAITING} {uuid4()}", message=message)
    state.name = AWAITING
    get_run_logger().info("Awaiting data: %s", message)
    async with get_client() as client:
        state = await propose_state(client, state, flow_run_id=context.flow_run.id)
    if state.is_paused():
        raise Pause(state=state)
