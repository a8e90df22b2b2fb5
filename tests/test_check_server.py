"""A server is checked by a flow: its list is the run's artifact, and a failure's first sentence is the reason."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.check_server import check_server, page
from tasks.compute_server import ComputeServer
from tests.prefect_server import PrefectServer, free_port
from trackers.check import Finding


def checked(prefect: PrefectServer, server: ComputeServer | None) -> tuple[str, str, list[str]]:
    """Run the flow; return its state, what that says, and its artifacts."""

    async def run() -> tuple[str, str, list[str]]:
        state = await check_server(server, return_state=True)
        async with get_client() as client:
            mine = ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
            found = await client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=mine))
        return str(state.name), str(state.message), [str(artifact.data) for artifact in found]

    with temporary_settings({PREFECT_API_URL: prefect.api}):
        return asyncio.run(run())


def test_this_computer_is_well_and_the_page_lists_every_step(prefect: PrefectServer, tmp_path: Path) -> None:
    own = {"core": {"python": sys.executable}}
    server = ComputeServer(storage_root=str(tmp_path), environments=own)
    name, message, (shown,) = checked(prefect, server)
    assert name == "Completed", message
    assert message.startswith("this computer: ")
    assert "| server side | ok |" in shown
    assert "| storage" in shown


def test_a_server_that_cannot_be_reached_fails_with_the_reason_first(prefect: PrefectServer, tmp_path: Path) -> None:
    server = ComputeServer(name="lab", host="127.0.0.1", port=free_port(), storage_root=str(tmp_path))
    name, message, (shown,) = checked(prefect, server)
    assert name == "Failed"
    assert message.startswith("lab: connection: ")
    assert "Connection refused." in message
    assert "firewall" in message
    assert "| login | skipped | not looked at, because of: connection |" in shown


def test_without_a_server_and_volumes_it_says_what_to_set(
    prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SESSIONFLOW_STORAGE", raising=False)
    name, message, shown = checked(prefect, None)
    assert (name, shown) == ("Failed", [])
    assert "SESSIONFLOW_STORAGE" in message


def test_what_a_server_says_is_no_markup() -> None:
    assert "a\\|b" in page([Finding("name", "failure", "a|b")])
