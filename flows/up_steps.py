"""What `sessionflow up` sets up in Prefect: steps that may be taken again, and keep what people changed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentUpdate,
    GlobalConcurrencyLimitCreate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows.awaiting import AWAITING
from flows.heartbeats import HEARTBEAT
from flows.labels import CUT_OFF, IN_PROGRESS
from flows.server_blocks import block_name, put_block, reference, register
from flows.up_settings import HEARTBEAT_SECONDS, POOL
from tasks import server_files
from trackers.errors import BadInputError

LIMITS = ("sessionflow-storage", "sessionflow-working")
ZOMBIES = "sessionflow: runs whose process is gone"
ZOMBIE_SECONDS = (
    10 * HEARTBEAT_SECONDS
)  # a server that restarts, or a computer that is busy, must not look like a death
_ELSE = (
    *("Completed", "Failed", "Cancelled", "Crashed", "Scheduled", "AwaitingRetry", "Pending", "Paused", "Suspended"),
    *(AWAITING, IN_PROGRESS, CUT_OFF),
)
_EXPECTED = {HEARTBEAT, *(f"prefect.flow-run.{name}" for name in _ELSE)}


async def work_pool(client: PrefectClient, *, resume: bool) -> str:
    """Make the work pool whose flows survive their worker; resume it where `up` itself had paused it."""
    template = ProcessWorker.get_default_base_job_template()
    try:
        pool = await client.read_work_pool(POOL)
    except ObjectNotFound:
        _survive(template)
        await client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        return f"work pool {POOL}: made"
    if pool.type != "process":
        raise BadInputError(
            f"The work pool {POOL!r} is of the type {pool.type}, and must be process. It was left unchanged. "
            f"Remove it with: prefect work-pool delete {POOL}"
        )
    said = "is there"
    if _survive(changed := dict(pool.base_job_template or template)):
        await client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=changed))
        said = "is there; stream_output was switched off, or flows would end with their worker"
    if pool.is_paused and resume:
        await client.update_work_pool(POOL, WorkPoolUpdate(is_paused=False))
        said += "; resumed"
    elif pool.is_paused:
        said += f"; somebody has paused it, so nothing starts until: prefect work-pool resume {POOL}"
    return f"work pool {POOL}: {said}"


async def pause_pool(client: PrefectClient) -> bool:
    """Let no new run start; return False where somebody had paused it before."""
    if (await client.read_work_pool(POOL)).is_paused:
        return False
    await client.update_work_pool(POOL, WorkPoolUpdate(is_paused=True))
    return True


async def limits(client: PrefectClient, wanted: dict[str, int]) -> str:
    """Make the limits of sessions at a time, by name; one that is there keeps its value."""
    said = []
    for name, limit in wanted.items():
        try:
            found = await client.read_global_concurrency_limit_by_name(name)
            kept = "" if found.limit == limit else f" (kept as it was set; asked for: {limit})"
            said.append(f"{name} {found.limit}{kept}")
        except ObjectNotFound:
            await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=limit))
            said.append(f"{name} {limit}, made")
    return f"limits: {', '.join(said)}"


async def zombies(client: PrefectClient) -> str:
    """Make the automation that ends, in Prefect, runs whose process no longer says that it lives."""
    for there in await client.read_automations_by_name(ZOMBIES):
        if isinstance(there.trigger, EventTrigger) and there.trigger.expect < _EXPECTED:
            there.trigger.expect = _EXPECTED  # an earlier version did not know all states that have no process
            kept = {name: getattr(there, name) for name in ("name", "description", "enabled", "trigger", "actions")}
            await client.update_automation(there.id, AutomationCore(**kept))
        return "automation for dead runs: is there"
    await client.create_automation(zombie_automation())
    return "automation for dead runs: made"


def zombie_automation() -> AutomationCore:
    """Return the automation; `docs/zombies.yaml` is the same for Prefect's own command."""
    trigger = EventTrigger(
        match=ResourceSpecification.model_validate({"prefect.resource.id": "prefect.flow-run.*"}),
        after={HEARTBEAT},
        expect=_EXPECTED,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=ZOMBIE_SECONDS),
    )
    message = (
        "Its process has not been heard of for 10 minutes. Its jobs may run on: run the same again, it adopts them."
    )
    action = ChangeFlowRunState(name=None, state=StateType.CRASHED, message=message, force=False)
    return AutomationCore(name=ZOMBIES, description="Made by `sessionflow up`.", trigger=trigger, actions=[action])


async def kept_deployments(client: PrefectClient) -> dict[str, DeploymentResponse]:
    """Return our deployments as they are now, by name, to be handed to `restore`."""
    found = await client.read_deployments(limit=200)
    return {deployment.name: deployment for deployment in found if deployment.work_pool_name == POOL}


async def restore(client: PrefectClient, before: dict[str, DeploymentResponse]) -> str:
    """After a deploy, give deployments that were there their schedules, parameters and limits back: people's."""
    now = await kept_deployments(client)
    for name, new in now.items():
        if (old := before.get(name)) is None:
            continue
        slugs = {schedule.slug for schedule in old.schedules}
        added = [schedule for schedule in new.schedules if schedule.slug not in slugs]
        for schedule in new.schedules:
            await client.delete_deployment_schedule(new.id, schedule.id)
        await add_schedules(client, new, [_schedule(schedule) for schedule in (*old.schedules, *added)])
        changes: dict[str, Any] = {"paused": old.paused, "parameters": {**(new.parameters or {}), **_known(old, new)}}
        if old.global_concurrency_limit is not None:
            changes["concurrency_limit"] = old.global_concurrency_limit.limit
            strategy = old.concurrency_options or ConcurrencyOptions(
                collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
            )
            changes["concurrency_options"] = strategy
        await client.update_deployment(new.id, DeploymentUpdate(**changes))
    return f"deployments: {', '.join(sorted(now))}"


async def exact_parameters(client: PrefectClient) -> None:
    """Have Prefect refuse parameters that a flow does not have; its own schema lets them pass, and the run crashes."""
    for deployment in (await kept_deployments(client)).values():
        schema = {**(deployment.parameter_openapi_schema or {}), "additionalProperties": False}
        await client.update_deployment(deployment.id, DeploymentUpdate(parameter_openapi_schema=schema))


async def add_schedules(
    client: PrefectClient, deployment: DeploymentResponse, schedules: list[DeploymentScheduleCreate]
) -> None:
    """Give a deployment further schedules."""
    if schedules:
        await client.create_deployment_schedules(deployment.id, schedules)


async def servers(client: PrefectClient) -> tuple[str, dict[str, Any]]:
    """Make a block of each described server, or bring it up to date.

    Returns:
        a line, and the id of each block by its name.
    """
    await register()
    said, blocks = [], {}
    for name in server_files.names():
        try:
            blocks[block_name(name)], words = await put_block(client, name)
            said.append(words)
        except BadInputError as error:
            said.append(f"{name} cannot be used: {error}")
    return f"servers: {', '.join(said) or 'none is described; sessionflow server add NAME --file server.yaml'}", blocks


async def usual_server(client: PrefectClient, blocks: dict[str, Any], *, here: bool) -> str:
    """Have runs that name no server, as those of rigs, go to the only one that there is; what people chose stays.

    Args:
        client: of Prefect.
        blocks: the id of each described server's block, by its name.
        here: whether this computer has volumes, where such runs go otherwise.
    """
    if here or len(blocks) != 1:
        where = "this computer" if here else "no place; choose a server among the parameters of their deployments"
        return f"runs that name no server: {where}, unless their deployments say otherwise"
    ((name, block),) = blocks.items()
    for deployment in (await kept_deployments(client)).values():
        parameters: dict[str, Any] = deployment.parameters or {}
        named = "server" in parameters and not await _is_gone(client, parameters)
        if not named and "server" in (deployment.parameter_openapi_schema or {}).get("properties", {}):
            chosen = DeploymentUpdate(parameters={**parameters, "server": reference(block)})
            await client.update_deployment(deployment.id, chosen)
    return f"runs that name no server: {name}, unless their deployments say otherwise"


async def sweeps(client: PrefectClient, blocks: dict[str, Any], *, here: bool) -> str:
    """Schedule the sweeper for each server, and for this computer where it has volumes; what is there stays."""
    deployment = await client.read_deployment_by_name("sweep/sweep")
    there = set()
    for schedule in deployment.schedules:
        if await _is_gone(client, schedule.parameters or {}):
            await client.delete_deployment_schedule(deployment.id, schedule.id)
        else:
            there.add(schedule.slug)
    places: dict[str, dict[str, Any]] = {"here": {"server": None}} if here else {}
    places |= {f"server-{name}": {"server": reference(i)} for name, i in blocks.items()}
    new = [slug for slug in places if slug not in there]
    hourly = CronSchedule(cron="7 * * * *")
    schedules = [DeploymentScheduleCreate(schedule=hourly, active=True, parameters=places[s], slug=s) for s in new]
    await add_schedules(client, deployment, schedules)
    if not places:
        return "sweeper: nothing to sweep yet; describe a server, or set SESSIONFLOW_STORAGE"
    return f"sweeper: hourly for {', '.join(places)}"


async def _is_gone(client: PrefectClient, parameters: dict[str, Any]) -> bool:
    """Whether the server that parameters name is a block that somebody has removed."""
    server = parameters.get("server")
    reference = server.get("$ref") if isinstance(server, dict) else None
    if not isinstance(reference, dict):
        return False
    try:
        await client.read_block_document(reference["block_document_id"])
    except ObjectNotFound:
        return True
    return False


def _survive(template: dict[str, Any]) -> bool:
    """Let flows survive their worker; return whether that changed anything."""
    option = template["variables"]["properties"]["stream_output"]
    changed = option.get("default") is not False
    option["default"] = False
    return changed


def _schedule(schedule: Any) -> DeploymentScheduleCreate:
    kept = {name: getattr(schedule, name) for name in ("schedule", "active", "parameters", "slug")}
    return DeploymentScheduleCreate(**kept)


def _known(old: DeploymentResponse, new: DeploymentResponse) -> dict[str, Any]:
    """Return those parameters of a deployment that its flow still has."""
    schema: dict[str, Any] = new.parameter_openapi_schema or {}
    return {key: value for key, value in (old.parameters or {}).items() if key in schema.get("properties", {})}
