"""Descriptions of servers: kept whole and for this account alone, imported without a password, shown, removed."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.servers import Override, Server

ROOT = Path(__file__).parents[1]
PASSWORD = "correct horse battery"
DESCRIPTION = """\
# the lab's cluster
host: cluster.example.org
user: me
storage_root: /local/storage
working_root: /local/workdir
shared_directory_name: sun_data
scheduler: slurm
"""
CREDENTIALS = f"""\
---
username: me
password: {PASSWORD}
host: cluster.example.org
storage_root: /local/storage
working_root: /local/workdir
shared_directory_name: sun_data
raw_data_root: /local/storage/sun_data
processed_data_root: /local/workdir/sun_data
user_data_root: /local/storage/me
user_working_root: /local/workdir/me
...
"""


class Command:
    """`sessionflow server` for an account of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers = folder / "config" / "sessionflow" / "servers"
        home = {"XDG_CONFIG_HOME": str(folder / "config"), "HOME": str(folder)}
        self._environment = {**os.environ, **home, "PYTHONPATH": str(ROOT)}

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", "server", *words]
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )

    def file(self, text: str, name: str = "server.yaml") -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


@pytest.fixture
def server(tmp_path: Path) -> Command:
    return Command(tmp_path)


def test_a_description_is_kept_as_it_was_written_for_this_account_alone(server: Command) -> None:
    done = server("add", "lab", "--file", server.file(DESCRIPTION))
    assert done.returncode == 0, done.stderr
    assert "sessionflow server check lab" in done.stdout
    (kept,) = server.servers.iterdir()
    assert kept.read_text() == DESCRIPTION
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "lab: me@cluster.example.org, slurm, /local/storage/sun_data" in server("list").stdout
    shown = server("show", "lab")
    assert "host: cluster.example.org" in shown.stdout
    assert "reached as me@cluster.example.org:22" in shown.stdout
    again = server("add", "lab", "--file", server.file(DESCRIPTION))
    assert (again.returncode, "Unchanged" in again.stdout) == (0, True)


def test_options_of_sbatch_that_are_the_sites_own_are_taken(server: Command) -> None:
    options = (
        "[--constraint=avx512, --exclusive, --mem-bind=local, --time-min=5, --gres=gpu:1, -x, node7, --export=ALL]"
    )
    done = server("add", "lab", "--file", server.file(f"{DESCRIPTION}slurm: {{options: {options}}}\n"))
    assert done.returncode == 0, done.stderr


def test_another_description_takes_its_place_only_when_told_to(server: Command) -> None:
    server("add", "lab", "--file", server.file(DESCRIPTION))
    other = server.file(DESCRIPTION.replace("user: me", "user: you"))
    refused = server("add", "lab", "--file", other)
    assert refused.returncode == 2
    assert "--replace" in refused.stderr
    assert (server.servers / "lab.yaml").read_text() == DESCRIPTION
    assert server("add", "lab", "--file", other, "--replace").returncode == 0
    assert "you@" in server("list").stdout


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("../lab", DESCRIPTION, "cannot name a server"),
        ("local", DESCRIPTION, "cannot name a server"),
        ("lab.yaml", DESCRIPTION, "cannot name a server"),
        ("lab", f"{DESCRIPTION}password: {PASSWORD}\n", "unknown fields: password"),
        ("lab", DESCRIPTION.replace("scheduler: slurm", "scheduler: pbs"), "scheduler"),
        ("lab", DESCRIPTION.replace("storage_root: /local/storage\n", ""), "storage_root"),
        ("lab", f"name: other\n{DESCRIPTION}", "'other'"),
        ("lab", DESCRIPTION.replace("host: c", "host: -oProxyCommand=c"), "dash"),
        ("lab", DESCRIPTION.replace("root: /local/storage", "root: storage"), "no absolute path"),
        ("lab", DESCRIPTION.replace("root: /local/storage", 'root: "/local\\nstorage"'), "on one line"),
        ("lab", DESCRIPTION.replace("host: c", "host: ssh c"), "a space"),
        ("lab", DESCRIPTION.replace("sun_data", "../sun_data"), "does not lie in the roots"),
        ("lab", f"{DESCRIPTION}slurm: {{options: [--comment=ours]}}\n", "--comment=ours cannot be given"),
        ("lab", f"{DESCRIPTION}slurm: {{options: [-o/dev/null]}}\n", "-o/dev/null cannot be given"),
        ("lab", f"{DESCRIPTION}slurm: {{options: [-QH]}}\n", "-QH cannot be given"),
        ("lab", f"{DESCRIPTION}slurm: {{options: [--exclusive, -t, '10']}}\n", "under `resources`"),
        ("lab", f"{DESCRIPTION}resources: {{behaviour: {{cpus: 2}}}}\n", "behaviour is no pipeline"),
        ("lab", f"{DESCRIPTION}commands: {{sutie2p/plane-*: {{words: ['true']}}}}\n", "sutie2p/plane-* is no pipeline"),
        ("lab", f"{DESCRIPTION}resources: {{behavior: {{memory_gb: .inf}}}}\n", "finite"),
        ("lab", "- a list\n", "no mapping"),
        ("lab", "host: [\n", "cannot be read"),
    ],
)
def test_a_description_that_is_none_is_refused_in_words(server: Command, name: str, text: str, words: str) -> None:
    refused = server("add", name, "--file", server.file(text))
    assert refused.returncode == 2
    assert words in refused.stderr
    assert PASSWORD not in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not server.servers.exists()


def test_a_credentials_file_is_imported_without_its_password(server: Command) -> None:
    done = server("import", "lab", server.file(CREDENTIALS, "user_credentials.yaml"))
    assert done.returncode == 0, done.stderr
    assert "still holds one" in done.stdout
    kept = (server.servers / "lab.yaml").read_text()
    assert PASSWORD not in done.stdout + done.stderr + kept
    assert "user: me" in kept
    assert "lab: me@cluster.example.org, slurm, /local/storage/sun_data" in server("list").stdout
    assert "worked on in /local/workdir/sun_data" in server("show", "lab").stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"password: {PASSWORD}\n", "does not say username"),
        (f"- {PASSWORD}\n", "does not say username"),
        (f"password: [{PASSWORD}\n", "is no YAML"),
        (CREDENTIALS.replace("username: me", "username: YourNetID"), "YourNetID"),
        (CREDENTIALS.replace("host: c", "host: -oProxyCommand=c"), "dash"),
        (CREDENTIALS.replace("root: /local/storage", "root: storage", 1), "no absolute path"),
    ],
)
def test_a_file_that_holds_no_credentials_is_refused_without_repeating_it(
    server: Command, text: str, words: str
) -> None:
    refused = server("import", "lab", server.file(text))
    assert refused.returncode == 2
    assert words in refused.stderr
    assert PASSWORD not in refused.stderr
    assert not server.servers.exists()


def test_a_server_is_removed_after_a_confirmation(server: Command) -> None:
    server("add", "lab", "--file", server.file(DESCRIPTION))
    refused = server("remove", "lab")
    assert (refused.returncode, (server.servers / "lab.yaml").exists()) == (2, True)
    assert server("remove", "lab", "--yes").returncode == 0
    assert server("remove", "lab", "--yes").returncode == 2
    assert "No server is described" in server("list").stdout


def test_a_description_that_was_spoiled_later_does_not_hide_the_others(server: Command) -> None:
    server("add", "lab", "--file", server.file(DESCRIPTION))
    (server.servers / "bad.yaml").write_text("host: [\n")
    listed = server("list")
    assert listed.returncode == 0
    assert "bad: " in listed.stdout
    assert "lab: me@" in listed.stdout


@pytest.mark.parametrize("action", ["add", "import", "list", "show", "remove", "check", "install", "login", "logout"])
def test_every_action_has_help_with_examples_and_exit_codes(server: Command, action: str) -> None:
    shown = server(action, "--help")
    assert shown.returncode == 0
    assert f"  sessionflow server {action}" in shown.stdout
    assert "exit codes: 0 success" in shown.stdout


def test_this_computer_takes_no_login(server: Command) -> None:
    server("add", "here", "--file", server.file("storage_root: /data\n"))
    for action in ("login", "logout"):
        refused = server(action, "here")
        assert refused.returncode == 2
        assert "computer" in refused.stderr


def test_the_page_on_servers_has_every_field_and_examples_that_are_accepted() -> None:
    page = (ROOT / "docs" / "servers.md").read_text()
    for name in (*Server.model_fields, *Override.model_fields):
        assert f"`{name}`" in page, name
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        Server.model_validate(yaml.safe_load(example))
