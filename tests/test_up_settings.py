"""What `sessionflow up` refuses before it starts anything, the unit that it writes, and what its pages promise."""

from __future__ import annotations

import re
import shlex
import shutil
import sqlite3
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from cryptography.fernet import Fernet
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.cli import parser
from flows.up_settings import settle
from flows.up_steps import block_name, zombie_automation
from tests.lab_up import LabUp

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / name for name in ("administrator.md", "security.md")]


@pytest.fixture
def lab(tmp_path: Path) -> LabUp:
    return LabUp(tmp_path)


@pytest.mark.parametrize(
    ("options", "variables", "words"),
    [
        (["--host", "0.0.0.0"], {}, "--tls-certificate"),
        ([], {"PREFECT_SERVER_API_HOST": "192.0.2.1"}, "--open-without-tls"),
        (["--tls-key", "lab.key"], {}, "go together"),
        (["--tls-certificate", "none.pem", "--tls-key", "none.key"], {}, "TLS files"),
        (["--database", "mysql://lab"], {}, "no database for Prefect"),
        ([], {"PREFECT_API_URL": "http://127.0.0.1:1/api"}, "PREFECT_API_URL names"),
        (["--deployments", "none.yaml"], {}, "none.yaml"),
        ([], {"PREFECT_SERVER_API_PORT": "70000"}, "70000 is no port"),
        (
            [],
            {"PREFECT_SERVER_API_PORT": "http"},
            "(ServerAPISettings): port is 'http': Input should be a valid integer",
        ),
    ],
)
def test_what_contradicts_itself_or_opens_too_much_is_refused_before_anything_starts(
    lab: LabUp, options: list[str], variables: dict[str, str], words: str
) -> None:
    refused = lab.command("up", *options, environment={**lab.environment, **variables})
    assert (refused.returncode, words in refused.stderr) == (2, True), refused.stderr
    assert "Nothing was" in refused.stderr
    assert not (lab.home / "prefect.db").exists()


def test_the_key_that_an_earlier_server_put_into_its_database_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Fernet.generate_key().decode()
    with sqlite3.connect(tmp_path / "prefect.db") as database:
        database.execute("CREATE TABLE configuration (key, value)")
        database.execute("INSERT INTO configuration VALUES ('ENCRYPTION_KEY', ?)", (f'{{"fernet_key": "{key}"}}',))
    database.close()
    monkeypatch.delenv("PREFECT_SERVER_ENCRYPTION_KEY", raising=False)
    options = {"certificate": None, "key": None, "open_without_tls": False, "storage_limit": 1, "working_limit": 1}
    with temporary_settings({PREFECT_HOME: tmp_path, PREFECT_API_URL: None}):
        settings = settle(host="", database="", drain_seconds=1, **options)  # type: ignore[arg-type]
    assert settings.encryption_key == key
    assert settings.fresh
    for name in ("login", "encryption-key"):
        assert stat.S_IMODE((tmp_path / "sessionflow" / name).stat().st_mode) == 0o600


@pytest.mark.parametrize("seconds", ["-5", "nan", "inf", "soon"])
def test_what_is_no_time_to_drain_is_refused(lab: LabUp, seconds: str) -> None:
    refused = lab.command("up", f"--drain={seconds}")
    assert (refused.returncode, "--drain: invalid seconds value" in refused.stderr) == (2, True), refused.stderr


def test_a_login_that_a_start_made_and_did_not_tell_is_told_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    options = {"certificate": None, "key": None, "open_without_tls": False, "storage_limit": 1, "working_limit": 1}
    with temporary_settings({PREFECT_HOME: tmp_path, PREFECT_API_URL: None}):
        first, second = (settle(host="", database="", drain_seconds=1, **options) for _ in range(2))  # type: ignore[arg-type]
    assert (first.fresh, second.fresh, first.login) == (True, True, second.login)


def test_the_unit_drains_on_stop_and_holds_no_secret(lab: LabUp) -> None:
    secret = {"PREFECT_SERVER_API_AUTH_STRING": "a:secret", "PREFECT_SERVER_DATABASE_PASSWORD": "secret"}
    environment = {**lab.environment, **secret, "SESSIONFLOW_STORAGE": "/data/50% of it"}
    done = lab.command("up", "--drain", "600", "--systemd", str(lab.root / "units"), environment=environment)
    assert done.returncode == 0, done.stderr
    unit = lab.root / "units" / "sessionflow.service"
    lines = unit.read_text().splitlines()
    assert {"KillMode=mixed", "TimeoutStopSec=750", "Restart=always"} <= set(lines)
    assert f'Environment="PREFECT_HOME={lab.home}"' in lines
    assert 'Environment="SESSIONFLOW_STORAGE=/data/50%% of it"' in lines
    assert not any("secret" in line for line in lines if line.startswith("Environment="))
    if shutil.which("systemd-analyze"):
        checked = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, check=False)
        assert checked.returncode == 0, checked.stderr


def test_the_automation_for_prefects_own_command_is_the_same() -> None:
    file = AutomationCore.model_validate(yaml.safe_load((ROOT / "docs" / "zombies.yaml").read_text()))
    ours = zombie_automation()
    assert (file.name, file.trigger) == (ours.name, ours.trigger)


def test_a_servers_name_becomes_one_that_a_block_can_have() -> None:
    assert [block_name(name) for name in ("lab", "Lab_1", "a.b-C_")] == ["lab", "lab-1", "a-b-c"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_pages_is_one_that_there_is(page: Path) -> None:
    commands = re.findall(r"^    (?:[A-Z_]+=\S+ )?sessionflow (.*?)(?:  +#.*)?$", page.read_text(), re.MULTILINE)
    for command in commands:
        parser().parse_args(shlex.split(command, comments=True))
    assert commands
