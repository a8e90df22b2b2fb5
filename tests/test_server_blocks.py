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


def block(prefect: PrefectServer, name: str) -> dict[str, Any]:
    address = f"{prefect.api}/block_types/slug/compute-server/block_documents/name/{name}"
    with urllib.request.urlopen(address, timeout=20) as answer:
        found: dict[str, Any] = json.loads(answer.read())["data"]
    return found


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
