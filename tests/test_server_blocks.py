"""A server that is described is offered by Prefect's forms at once; without Prefect it is described all the same."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.server_blocks import reference
from tasks.compute_server import ComputeServer
from tests.conftest import SESSION
from tests.prefect_server import PrefectServer, free_port

DESCRIPTION = "host: cluster.example.org\nstorage_root: /data\nscheduler: slurm\n"
Add = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def add(prefect: PrefectServer, tmp_path: Path) -> Add:
    """`sessionflow server add NAME`, its description through a pipe."""

    def run(name: str, text: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", "server", "add", name, "--file", "/dev/stdin", *words]
        environment = {**prefect.environment, "XDG_CONFIG_HOME": str(tmp_path), **variables}
        return subprocess.run(command, env=environment, input=text, capture_output=True, text=True, check=False)

    return run


def document(prefect: PrefectServer, name: str) -> dict[str, Any]:
    address = f"{prefect.api}/block_types/slug/compute-server/block_documents/name/{name}"
    with urllib.request.urlopen(address, timeout=20) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def block(prefect: PrefectServer, name: str) -> dict[str, Any]:
    found: dict[str, Any] = document(prefect, name)["data"]
    return found


def change(prefect: PrefectServer, method: str, path: str, body: dict[str, Any] | None = None) -> None:
    data, kind = json.dumps(body).encode() if body else None, {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{prefect.api}/{path}", data, kind, method=method)
    urllib.request.urlopen(request, timeout=20).close()


def message_of_a_run(prefect: PrefectServer, block_id: str, name: str, **parameters: Any) -> str:
    """Have a worker's program execute a run whose server is a block; return what its page says at the end."""
    flow, module = prefect.post("flows/", {"name": name})["id"], name.replace("-", "_")
    body = {"name": name, "flow_id": flow, "entrypoint": f"flows.{module}.{module}", "path": "."}
    deployment = prefect.post("deployments/", body)["id"]
    parameters["server"] = reference(block_id)
    run = prefect.post(f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
    command = [sys.executable, "-m", "prefect", "flow-run", "execute", run]
    subprocess.run(command, env=prefect.environment, capture_output=True, check=False)
    (found,) = prefect.post("flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    assert found["state_type"] == "FAILED"
    return str(found["state"]["message"])


def test_a_description_from_a_pipe_becomes_a_block_and_another_one_changes_it(add: Add, prefect: PrefectServer) -> None:
    added = add("Lab_1", DESCRIPTION)
    assert added.returncode == 0, added.stderr
    assert "In Prefect's forms: lab-1, made." in added.stdout
    assert block(prefect, "lab-1")["host"] == "cluster.example.org"
    changed = add("Lab_1", DESCRIPTION.replace("cluster", "newer"), "--replace")
    assert "lab-1, changed as its file" in changed.stdout, changed.stdout + changed.stderr
    assert block(prefect, "lab-1")["host"] == "newer.example.org"


def test_a_block_that_says_what_its_file_says_was_edited_by_nobody(add: Add, prefect: PrefectServer) -> None:
    add("Lab_2", DESCRIPTION)
    again = add("Lab_2", DESCRIPTION, "--replace")
    assert "In Prefect's forms: lab-2.\n" in again.stdout, again.stdout + again.stderr


def test_a_prefect_that_is_away_is_said_and_the_description_is_kept(add: Add, tmp_path: Path) -> None:
    away = f"http://127.0.0.1:{free_port()}/api"
    added = add("lab", DESCRIPTION, PREFECT_API_URL=away)
    assert added.returncode == 0, added.stderr
    assert f"{away} could not be told" in added.stdout
    assert (tmp_path / "sessionflow" / "servers" / "lab.yaml").read_text() == DESCRIPTION


@pytest.mark.slow
def test_a_run_whose_server_was_removed_or_spoilt_in_the_ui_says_so_first_and_what_to_do(
    add: Add, prefect: PrefectServer
) -> None:
    add("Lab_3", DESCRIPTION)
    found = document(prefect, "lab-3")
    change(
        prefect, "PATCH", f"block_documents/{found['id']}", {"data": {"scheduler": "pbs"}, "merge_existing_data": True}
    )
    session = {"project": "Project", "animal": "305", "session": SESSION}
    spoilt = message_of_a_run(prefect, found["id"], "checksum", **session)
    assert spoilt.startswith(
        "The server of this run is not described in Prefect as it must be: scheduler: Input should"
    )
    change(prefect, "DELETE", f"block_documents/{found['id']}")
    removed = message_of_a_run(prefect, found["id"], "checksum", **session)
    assert message_of_a_run(prefect, found["id"], "check-server") == removed
    assert removed.startswith(
        "The server of this run is no longer described in Prefect: its block was removed. Nothing"
    )
    assert "sessionflow server add NAME --file server.yaml" in removed


@pytest.mark.parametrize("field", ["storage_root", "working_root", "datasets_root"])
@pytest.mark.parametrize("root", ["data", "~/data", "/da\nta"])
def test_a_volume_that_is_no_absolute_path_makes_no_block(field: str, root: str) -> None:
    with pytest.raises(ValidationError, match="no absolute path of the server"):
        ComputeServer(**{"storage_root": "/data", field: root})
