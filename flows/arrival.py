"""The arrival watch: starts a session when its data is complete. A part of the watch of `sessionflow up`.

Once a minute it asks every server one question, for all of its projects and all runs that await data.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Failed

from flows.awaiting import AWAITING
from flows.launch import Outcome, launch
from flows.server_blocks import reference
from tasks.client import connected
from tasks.compute_server import STORAGE_VARIABLE, ComputeServer, this_computer
from trackers.processes import this_account

DEPLOYMENT = "process-session"
ANSWER_SECONDS = 45.0  # for a server to answer; it is asked again a minute later
REQUESTED_BY = "arrival watch"
PAGE = 200  # runs that Prefect is asked for at a time; it gives no more
HERE = ""  # the id of the block that this computer has not
Session = dict[str, str]


async def look(servers: dict[str, ComputeServer]) -> list[str]:
    """Look once at every server and begin what can begin; return what was done, a line each.

    Args:
        servers: by the id of their block in Prefect; this computer by an empty one.

    Raises:
        httpx.HTTPError: Prefect could not be asked.
    """
    async with get_client() as client:
        waiting = await _awaiting(client)
        watch = await _name(client) if servers else ""
        known = {**_described_in(waiting), **servers}
        done = [await _without_server(client, run) for run in waiting if _place_of(run) not in known]
        for place, server in known.items():
            runs = [run for run in waiting if _place_of(run) == place]
            try:
                # what arrives on a server that no block names is not ours to start
                answer = await _asked(server, [_session_of(run) for run in runs], watch if place in servers else "")
            except Exception as error:  # of one server; the others are looked at all the same
                done.append(f"{server.label} could not be asked what has arrived: {error}")
                continue
            done += answer["problems"]
            done += [await _resumed(client, run) for run in runs if _session_of(run) in answer["complete"]]
            new = [session for session in answer["arrived"] if not await _was_launched(client, session)]
            done += [(await asyncio.to_thread(_launched, session, place)).words for session in new]
        return done


async def servers() -> dict[str, ComputeServer]:
    """Return the servers that Prefect has blocks of, and this computer where it has volumes."""
    found = {HERE: this_computer()} if os.environ.get(STORAGE_VARIABLE) else {}
    slug = ComputeServer.get_block_type_slug()
    async with get_client() as client:
        for document in await client.read_block_documents_by_type(slug):
            with contextlib.suppress(ValueError):  # one that a newer or older version made
                found[str(document.id)] = ComputeServer(**document.data)
    return found


async def _name(client: PrefectClient) -> str:
    """Return what tells the watch of this Prefect from those of others, which may share its servers."""
    deployment = await client.read_deployment_by_name(f"{DEPLOYMENT}/{DEPLOYMENT}")
    return f"{this_account()}@{socket.gethostname()}, Prefect's deployment {deployment.id}"


async def _asked(server: ComputeServer, waiting: Iterable[Session], watch: str) -> dict[str, Any]:
    async with asyncio.timeout(ANSWER_SECONDS), connected(server) as client:
        answer: dict[str, Any] = await client.ask_within(ANSWER_SECONDS, "arrivals", waiting=list(waiting), watch=watch)
        return answer


async def _awaiting(client: PrefectClient) -> list[FlowRun]:
    """Return the runs that await data."""
    return [run async for run in _runs(client, {"state": {"name": {"any_": [AWAITING]}}})]


async def _without_server(client: PrefectClient, run: FlowRun) -> str:
    """Fail a run whose server's block has been removed, for which it would wait in vain; say what keeps another one."""
    name, place = "/".join(_session_of(run).values()), _place_of(run)
    if place == HERE:
        return f"{name} awaits data on this computer, and {STORAGE_VARIABLE} is not set: set it, and start `up` again"
    try:
        await client.read_block_document(UUID(place))
    except ObjectNotFound:
        message = (
            "The server that it was launched with is no longer described in Prefect, so nobody can look whether its "
            "data is complete. Nothing was done. Launch it again with another server."
        )
        await client.set_flow_run_state(run.id, Failed(message=message))
        return f"{name}: its run awaited data on a server whose block has been removed, and has failed"
    except ValueError:
        pass
    return f"{name} awaits data on a server whose description cannot be read"


async def _resumed(client: PrefectClient, run: FlowRun) -> str:
    answer = await client.resume_flow_run(run.id)
    how = "begins" if answer.status.value == "ACCEPT" else f"could not be resumed ({answer.status.value})"
    return f"{'/'.join(_session_of(run).values())} is complete: its run {how}"


async def _was_launched(client: PrefectClient, session: Session) -> bool:
    """Whether a run of the session's own was ever started: a person or the night decides what comes after that one."""
    wanted = {"tags": {"all_": [session["project"], session["animal"]]}}
    async for run in _runs(client, wanted, {"name": {"any_": [DEPLOYMENT]}}):
        if _session_of(run) == session:
            return True
    return False


async def _runs(
    client: PrefectClient, wanted: dict[str, Any], deployments: dict[str, Any] | None = None
) -> AsyncIterator[FlowRun]:
    """Ask for flow runs, a page at a time."""
    for offset in itertools.count(0, PAGE):
        page = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(wanted),
            deployment_filter=DeploymentFilter.model_validate(deployments) if deployments else None,
            limit=PAGE,
            offset=offset,
        )
        for run in page:
            yield run
        if len(page) < PAGE:
            return


def _launched(session: Session, place: str) -> Outcome:
    # said also where it is this computer: the deployment may have a server for runs that name none
    server = None if place == HERE else reference(place)
    parameters: dict[str, Any] = {**session, "server": server, "requested_by": REQUESTED_BY}
    return launch(DEPLOYMENT, **parameters)


def _session_of(run: FlowRun) -> Session:
    return {name: str((run.parameters or {}).get(name)) for name in ("project", "animal", "session")}


def _place_of(run: FlowRun) -> str:
    """Return which server a run names: the id of its block, its description where it has none, or this computer."""
    server = (run.parameters or {}).get("server")
    if not isinstance(server, dict):
        return HERE
    block = server.get("$ref")
    return str(block.get("block_document_id")) if isinstance(block, dict) else json.dumps(server)


def _described_in(runs: list[FlowRun]) -> dict[str, ComputeServer]:
    """Return the servers that runs describe themselves, instead of naming a block, by their place."""
    found: dict[str, ComputeServer] = {}
    for run in runs:
        server = (run.parameters or {}).get("server")
        with contextlib.suppress(ValueError):  # the run itself will say what is wrong with it
            if isinstance(server, dict) and "$ref" not in server:
                found[_place_of(run)] = ComputeServer(**server)
    return found
