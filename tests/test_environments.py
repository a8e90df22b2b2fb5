"""A job whose environment is not there is refused before anything is submitted."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks import wheels
from tests.conftest import Side
from tests.test_server_install import Lab, lab  # noqa: F401
from trackers import environments
from trackers.graph import PYTHON, Graph, Job, Stage


def submitted(side: Side, *words: str, environment: str = "suite2p") -> dict[str, Any]:
    """Ask for one job of an environment; return the whole answer."""
    graph = Graph((Stage("stage", (Job("job", words, environment=environment),)),))
    arguments = {"pipeline": "SUITE2P", "graph": graph.to_json(), "manager_id": side.manager_id}
    return side.ask("submit", **arguments)


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the account a home without environments."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def test_a_job_without_its_environment_is_refused_with_the_command_that_installs_it(side: Side) -> None:
    side.take_lock()
    error = submitted(side, PYTHON, "-c", "pass")["error"]
    assert error["type"] == "EnvironmentMissingError"
    assert "Nothing was submitted" in error["message"]
    assert "sessionflow server install local --with suite2p" in error["message"]
    assert not list((side.root / "storage").rglob("submission.json"))
    side.arguments["site"]["name"] = "lab"
    assert "server install lab --with suite2p" in submitted(side, PYTHON)["error"]["message"]


def test_an_environment_that_is_described_but_not_there_is_named(side: Side) -> None:
    side.take_lock()
    side.arguments["site"]["environments"] = {"suite2p": {"python": "/opt/none/bin/python"}}
    message = submitted(side, PYTHON)["error"]["message"]
    assert "/opt/none/bin/python" in message
    assert "environments: suite2p" in message


def test_a_described_an_activated_and_an_installed_environment_are_taken(side: Side, empty_home: Path) -> None:
    side.take_lock()
    installed = empty_home / ".local/share/sessionflow/video/bin/python"
    installed.parent.mkdir(parents=True)
    installed.symlink_to(sys.executable)
    side.arguments["site"]["environments"] = {"suite2p": {"python": sys.executable}, "forging": {"activate": "true"}}
    for name in ("suite2p", "forging", "video"):
        assert "error" not in submitted(side, PYTHON, "-c", "pass", environment=name), name


def test_a_labs_own_program_needs_no_environment_of_ours(side: Side) -> None:
    side.take_lock()
    assert "error" not in submitted(side, "true")


@pytest.mark.parametrize("name", environments.PAYLOADS)
def test_what_an_environment_is_made_of_is_pinned(name: str) -> None:
    bounds = (">=6", ">=3.4", ">=3.32")  # of the server side's own libraries
    assert all("==" in line or line.endswith(bounds) for line in wheels.requirements(name))


def test_every_environment_that_can_be_installed_can_be_checked() -> None:
    assert sorted(environments._NEEDS) == wheels.environments()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_payload_is_put_on_a_server_that_has_no_way_to_an_index(lab: Lab) -> None:  # noqa: F811
    entry = pwd.getpwnam(lab.sshd.account)
    nowhere = lab.home / ".config" / "pip" / "pip.conf"
    nowhere.parent.mkdir(parents=True)
    nowhere.write_text("[global]\nindex-url = http://127.0.0.1:9/\nretries = 0\n")
    for path in (nowhere, *nowhere.parents[:2]):
        os.chown(path, entry.pw_uid, entry.pw_gid)
    done = lab("install", "lab", "--with", "report")
    if "could not be had" in done.stderr:
        pytest.skip("no network to fetch wheels from")
    assert done.returncode == 0, done.stderr
    checked = lab("check", "lab").stdout
    line = next(line for line in checked.splitlines() if "environment report" in line)
    assert line.startswith("ok"), checked
    for pinned in ("matplotlib==", "polars=="):
        name, _, version = next(r for r in wheels.requirements("report") if r.startswith(pinned)).partition("==")
        assert f"{name} {version}" in line
    shutil.rmtree(next((lab.root / "report").resolve().rglob("site-packages/matplotlib")))
    checked = lab("check", "lab").stdout
    assert "environment report" in checked
    assert "No module named 'matplotlib" in checked
