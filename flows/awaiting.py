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
from trackers.session import Completeness

AWAITING = "AwaitingData"  # the name of the state
LONGEST_SECONDS = 30 * 24 * 3600  # then Prefect fails the run


async def await_data(facts: Facts) -> None:
    """End this attempt at a run whose session is not complete yet, if the run can begin again later.

    Only a run of a deployment can, and only where it is not part of another one: what else is called for an
    incomplete session goes on, and says that it is incomplete.

    Raises:
        Pause: to Prefect, that the run is suspended.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if facts["completeness"] != Completeness.INCOMPLETE or excluded(facts):
        return
    if run is None or run.deployment_id is None or run.parent_task_run_id is not None:
        return
    message = f"{facts['completeness']}. The run begins when it has one."
    state: State[Any] = Suspended(timeout_seconds=LONGEST_SECONDS, pause_key=f"{AWAITING} {uuid4()}", message=message)
    state.name = AWAITING
    get_run_logger().info("Awaiting data: %s", message)
    async with get_client() as client:
        state = await propose_state(client, state, flow_run_id=run.id)
    if state.is_paused():
        raise Pause(state=state)
