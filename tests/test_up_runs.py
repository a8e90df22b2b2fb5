"""What becomes of the runs of a worker that was killed."""

from __future__ import annotations

from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import EventTrigger
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import up_runs, up_steps
from tests.prefect_server import PrefectServer


def running(prefect: PrefectServer, parent: str = "") -> str:
    """Have a run, called by another one where that is given; return its id."""
    body = {"flow_id": prefect.post("flows/", {"name": "inner"})["id"], "state": {"type": "RUNNING"}}
    if parent:
        call = {"flow_run_id": parent, "task_key": "call", "dynamic_key": "0", "state": {"type": "RUNNING"}}
        body["parent_task_run_id"] = prefect.post("task_runs/", call)["id"]
    return str(prefect.post("flow_runs/", body)["id"])


async def test_a_project_is_put_back_and_what_it_had_called_is_over_at_every_depth(prefect: PrefectServer) -> None:
    project = running(prefect)
    session = running(prefect, project)
    pipeline = running(prefect, session)
    other = running(prefect)
    with temporary_settings({PREFECT_API_URL: prefect.api}):
        async with get_client() as client:
            await up_runs.put_back(client, [await client.read_flow_run(project)], "A test.")  # type: ignore[arg-type]
    states = {run["id"]: run["state_name"] for run in prefect.post("flow_runs/filter", {})}
    found = [states[run] for run in (project, session, pipeline, other)]
    assert found == ["AwaitingRetry", "CutOff", "CutOff", "Running"]


async def test_the_automation_of_an_earlier_version_learns_which_states_have_no_process(prefect: PrefectServer) -> None:
    earlier = up_steps.zombie_automation()
    assert isinstance(earlier.trigger, EventTrigger)
    earlier.trigger.expect = earlier.trigger.expect - {"prefect.flow-run.AwaitingData"}
    earlier.trigger.within, earlier.enabled = timedelta(hours=1), False  # as somebody has set it
    with temporary_settings({PREFECT_API_URL: prefect.api}):
        async with get_client() as client:
            await client.create_automation(earlier)
            await up_steps.zombies(client)
            (now,) = await client.read_automations_by_name(up_steps.ZOMBIES)
    assert isinstance(now.trigger, EventTrigger)
    assert "prefect.flow-run.AwaitingData" in now.trigger.expect
    assert (now.trigger.within, now.enabled) == (timedelta(hours=1), False)
