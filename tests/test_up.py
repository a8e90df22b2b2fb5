"""`sessionflow up` on a computer that has nothing: all is there, runs start, and whatever happens they end well."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import up_runs
from tests.conftest import Side, make_session
from tests.lab_up import LabUp

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabUp]:
    """One that is up, with a described server, for tests that leave it up."""
    up = LabUp(tmp_path_factory.mktemp("lab"))
    file = up.root / "server.yaml"
    file.write_text("host: cluster.example.org\nstorage_root: /data\nscheduler: slurm\n")
    assert up.command("server", "add", "Lab_1", "--file", str(file)).returncode == 0
    up.start("--drain", "5")
    yield up
    up.kill_everything()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LabUp]:
    """One for a test that ends it."""
    up = LabUp(tmp_path)
    yield up
    up.kill_everything()


def side_of(up: LabUp) -> Side:
    return Side(up.root)


def in_the_shell(up: LabUp, command: str) -> str:
    """Return what a command says in a shell in which somebody has entered the line that was printed for it."""
    printed = next(line for line in up.text.splitlines() if "for commands: " in line)
    line = printed.partition("for commands: ")[2].partition("; stop")[0]
    shell = ["sh", "-c", f"{line}; {command}"]
    done = subprocess.run(shell, env=up.environment, capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}".strip()


def traces(up: LabUp) -> list[str]:
    path = up.root / "trace"
    return path.read_text().split() if path.exists() else []


def job(up: LabUp, word: str = "begun") -> str:
    """A job that says that it began, and ends when it is let."""
    return f"echo {word} >> '{up.root}/trace'; until [ -e '{up.root}/go' ]; do sleep 0.1; done"


def test_from_nothing_everything_is_there_behind_a_login(shared: LabUp) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        shared.ask("work_pools/sessionflow", login="sessionflow:guess")
    pool = shared.ask("work_pools/sessionflow")
    assert (pool["type"], pool["is_paused"]) == ("process", False)
    assert pool["base_job_template"]["variables"]["properties"]["stream_output"]["default"] is False
    limits = {limit["name"]: limit["limit"] for limit in shared.ask("v2/concurrency_limits/filter", {})}
    assert limits.items() >= {"sessionflow-storage": 4, "sessionflow-working": 8}.items()
    (automation,) = shared.ask("automations/filter", {})
    assert automation["actions"][0]["state"] == "CRASHED"
    deployments = {found["name"]: found for found in shared.ask("deployments/filter", {})}
    assert {"process-session", "checksum", "sweep", "retention"} <= set(deployments)
    assert all(found["pull_steps"] == [] for found in deployments.values())
    block = shared.ask("block_types/slug/compute-server/block_documents/name/lab-1")
    assert block["data"]["host"] == "cluster.example.org"
    slugs = {s["slug"]: s for s in deployments["sweep"]["schedules"]}
    assert slugs["server-lab-1"]["parameters"]["server"]["$ref"]["block_document_id"] == block["id"]
    assert (slugs["here"]["active"], slugs["hourly"]["active"]) == (True, False)


def test_what_is_secret_is_this_accounts_alone_and_the_login_is_printed_once(shared: LabUp) -> None:
    assert shared.text.count(shared.login) == 1
    assert not (shared.state / "login-untold").exists()
    assert in_the_shell(shared, 'echo "$PREFECT_API_URL $PREFECT_API_AUTH_STRING"') == f"{shared.api} {shared.login}"
    for path in [*shared.state.iterdir(), *shared.home.glob("prefect.db*")]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o066, path
    assert stat.S_IMODE(shared.state.stat().st_mode) == 0o700
    key = (shared.state / "encryption-key").read_text().strip().encode()
    assert all(key not in path.read_bytes() for path in shared.home.glob("prefect.db*"))
    (worker,) = (pid for pid in shared.processes(b"worker") if os.getpgid(pid) == pid)
    assert key not in Path(f"/proc/{worker}/environ").read_bytes()


def test_the_parts_are_not_silenced_as_commands_are(shared: LabUp) -> None:
    for part in (b"server", b"worker", b"flows.watch"):
        for pid in shared.processes(part):
            assert b"PREFECT_LOGGING_" not in Path(f"/proc/{pid}/environ").read_bytes(), part


def test_it_listens_on_loopback_only(shared: LabUp) -> None:
    listening = subprocess.run(["ss", "-ltnH", f"sport = :{shared.port}"], capture_output=True, text=True, check=True)
    assert [line.split()[3] for line in listening.stdout.splitlines()] == [f"127.0.0.1:{shared.port}"]


def test_the_ui_asks_the_server_that_it_came_from(shared: LabUp) -> None:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{shared.port}/ui-settings", timeout=20) as answer:
        assert json.loads(answer.read())["api_url"] == "/api"


def test_a_second_one_is_refused_and_told_who_is_up_and_since_when(shared: LabUp) -> None:
    refused = shared.command("up")
    assert refused.returncode == 3
    assert shared.process is not None
    assert f"process {shared.process.pid}, since 20" in refused.stderr
    assert "up already" in refused.stderr


def test_a_run_that_was_started_through_the_api_processes_a_session(shared: LabUp) -> None:
    make_session(shared.storage, kind="window checking")
    run = shared.launch("checksum/checksum", project="Project", animal="305", session="2025-08-26-18-30-15-123456",
                        regenerate=True, requested_by="a test")  # fmt: skip
    ended = shared.ended(run)
    assert ended["state_name"] == "Completed", ended["state"]["message"]
    assert side_of(shared).get("tracker_show", pipeline="CHECKSUM")["status"] == "succeeded"


def test_wrong_parameters_are_refused_in_words_before_anything_starts(shared: LabUp) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        shared.launch("retention/retention", days=-1)
    assert error.value.code in (409, 422)
    assert b"days" in error.value.read() or error.value.code == 409
    with pytest.raises(urllib.error.HTTPError) as error:
        shared.launch("process-project/process-project", project="Project", dryrun=True)
    assert b"'dryrun' was unexpected" in error.value.read()


def test_the_sweeper_runs_for_a_server_that_its_schedule_names_by_block(shared: LabUp) -> None:
    block = shared.ask("block_types/slug/compute-server/block_documents/name/lab-1")
    reference = {"$ref": {"block_document_id": block["id"]}}
    run = shared.launch("sweep/sweep", server=reference)
    message = shared.ended(run)["state"]["message"]
    assert "cluster.example.org" in message or "lab-1" in message.lower(), message


def test_prefects_own_commands_deploy_everything_from_the_clone(shared: LabUp) -> None:
    from tests.prefect_server import REPOSITORY

    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(
        command, env=shared.client_environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "process-session/process-session" in done.stdout.replace("\n", "")


def test_a_part_that_dies_is_started_again_and_it_is_said(shared: LabUp) -> None:
    for word in (b"worker", b"server"):
        (leader,) = (pid for pid in shared.processes(word) if os.getpgid(pid) == pid and pid != shared.process.pid)  # type: ignore[union-attr]
        os.kill(leader, signal.SIGKILL)
        shared.wait(lambda word=word: f"{word.decode()}: started again" in shared.text)
    assert "was ended by SIGKILL" in shared.text
    shared.wait(lambda: answers(shared))
    run = shared.launch("retention/retention", dry_run=True)
    assert shared.ended(run)["state_name"] == "Completed"


def answers(up: LabUp) -> bool:
    try:
        return bool(up.ask("work_pools/sessionflow"))
    except OSError:
        return False


def test_a_flow_that_runs_when_it_is_stopped_goes_on_at_the_next_start_and_its_job_runs_once(own: LabUp) -> None:
    make_session(own.storage)
    own.start("--drain", "2")
    own.deploy_long()
    run = own.launch_long(job(own))
    own.wait(lambda: traces(own) == ["begun"])
    assert own.stop() == 0
    assert "go on at the next start" in own.text
    assert not own.processes(b"prefect")
    (own.root / "go").touch()
    own.start("--drain", "2")
    ended = own.ended(run)
    assert (ended["state_name"], ended["run_count"]) == ("Completed", 2), ended["state"]
    assert traces(own) == ["begun"]
    assert side_of(own).get("lock_show")["manager_id"] == -1


def test_a_flow_that_ends_in_time_is_waited_for(own: LabUp) -> None:
    make_session(own.storage)
    own.start("--drain", "60")
    own.deploy_long()
    run = own.launch_long(job(own))
    own.wait(lambda: traces(own) == ["begun"])
    assert own.process is not None
    own.process.send_signal(signal.SIGINT)
    own.wait(lambda: "paused" in own.text)
    (own.root / "go").touch()
    assert own.process.wait(100) == 0
    assert "nothing runs" in own.text
    own.start()
    assert own.run(run)["state_name"] == "Completed"
    assert own.ask("work_pools/sessionflow")["is_paused"] is False


def test_a_restart_keeps_what_people_changed_and_asks_for_no_new_login(own: LabUp) -> None:
    own.start()
    login, key = own.login, (own.state / "encryption-key").read_text()
    own.ask("v2/concurrency_limits/sessionflow-storage", {"limit": 2}, method="PATCH")
    sweep = own.ask("deployments/name/sweep/sweep")
    hourly = next(s for s in sweep["schedules"] if s["slug"] == "hourly")
    own.ask(f"deployments/{sweep['id']}/schedules/{hourly['id']}", {"active": True}, method="PATCH")
    retention = own.ask("deployments/name/retention/retention")
    own.ask(f"deployments/{retention['id']}", {"parameters": {"days": 7}}, method="PATCH")
    run = own.launch("retention/retention", dry_run=True)
    own.ended(run)
    assert own.stop() == 0
    own.start()
    assert (own.login, (own.state / "encryption-key").read_text()) == (login, key)
    assert login not in own.text
    assert own.ask("v2/concurrency_limits/sessionflow-storage")["limit"] == 2
    assert "kept as it was set" in own.text
    schedules = {s["slug"]: s["active"] for s in own.ask("deployments/name/sweep/sweep")["schedules"]}
    assert schedules == {"hourly": True, "here": True}
    assert own.ask("deployments/name/retention/retention")["parameters"] == {"days": 7}
    assert own.run(run)["state_name"] == "Completed"
    assert len(own.ask("automations/filter", {})) == 1


def test_a_pool_that_somebody_paused_stays_paused(own: LabUp) -> None:
    own.start()
    own.ask("work_pools/sessionflow", {"is_paused": True}, method="PATCH")
    own.stop()
    own.start()
    assert own.ask("work_pools/sessionflow")["is_paused"] is True
    assert "prefect work-pool resume sessionflow" in own.text


def test_after_a_power_cut_everything_comes_up_again_and_the_run_goes_on(own: LabUp) -> None:
    make_session(own.storage)
    own.start()
    own.deploy_long()
    run = own.launch_long(job(own))
    own.wait(lambda: traces(own) == ["begun"])
    own.kill_everything()
    (own.root / "go").touch()
    own.start()
    assert "1 were cut off" in own.text
    ended = own.ended(run, 150)
    assert ended["state_name"] == "Completed", ended["state"]
    assert side_of(own).get("lock_show")["manager_id"] == -1
    assert len(traces(own)) <= 2  # the job was killed as well, and has begun again


def test_a_run_whose_worker_alone_was_killed_lives_on(own: LabUp) -> None:
    make_session(own.storage)
    own.start()
    own.deploy_long()
    run = own.launch_long(job(own))
    own.wait(lambda: traces(own) == ["begun"])
    assert own.process is not None
    own.process.kill()  # server and worker die with it
    own.process.wait()
    own.start()
    assert "1 live on without their worker" in own.text
    (own.root / "go").touch()
    ended = own.ended(run, 120)
    assert (ended["state_name"], ended["run_count"]) == ("Completed", 1), ended["state"]
    assert traces(own) == ["begun"]


def test_a_run_that_was_killed_with_its_worker_goes_on_as_soon_as_there_is_a_worker_again(own: LabUp) -> None:
    make_session(own.storage)
    own.start()
    own.deploy_long()
    dead = own.launch_long(job(own))
    own.wait(lambda: traces(own) == ["begun"])
    (flow,) = (process.pid for process in up_runs.processes() if str(process.run) == dead)
    (worker,) = (pid for pid in own.processes(b"worker\0start") if os.getpgid(pid) == pid)
    for pid in (worker, flow):
        os.kill(pid, signal.SIGKILL)
    own.wait(lambda: "1 were cut off; they go on" in own.text, 40)
    own.wait(lambda: own.run(dead)["run_count"] == 2, 120)
    (own.root / "go").touch()
    ended = own.ended(dead, 120)
    assert ended["state_name"] == "Completed", ended["state"]
    assert traces(own) == ["begun"]
    assert side_of(own).get("lock_show")["manager_id"] == -1


def test_a_port_that_somebody_else_has_is_said_before_anything_starts(own: LabUp) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", own.port))
        other.listen()
        refused = own.command("up")
    assert refused.returncode == 2
    assert f"port {own.port}" in refused.stderr
    assert "PREFECT_SERVER_API_PORT" in refused.stderr
    assert not own.processes(b"prefect")


def test_a_server_that_does_not_start_is_said_with_its_last_words(own: LabUp) -> None:
    own.home.mkdir()
    (own.home / "prefect.db").write_bytes(b"no database" * 100)
    refused = own.command("up")
    assert refused.returncode == 1
    assert "did not start" in refused.stderr
    assert "not a database" in refused.stderr
    assert not own.processes(b"prefect")


def certificate(folder: Path, name: str) -> tuple[str, str]:
    pem, key = str(folder / "lab.pem"), str(folder / "lab.key")
    subject = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-out", pem, "-keyout", key)
    subprocess.run([*made, *subject], check=True, capture_output=True)
    return pem, key


def test_with_tls_it_may_listen_elsewhere_and_runs_are_started_all_the_same(own: LabUp) -> None:
    pem, key = certificate(own.root, "localhost")
    own.start("--host", "0.0.0.0", "--tls-certificate", pem, "--tls-key", key)
    assert f"https://localhost:{own.port}" in own.text
    assert "process" in in_the_shell(own, f"{sys.executable} -m prefect work-pool inspect sessionflow")
    environment: dict[str, Any] = {
        **own.client_environment,
        "PREFECT_API_URL": f"https://localhost:{own.port}/api",
        "PREFECT_API_SSL_CERT_FILE": pem,
    }
    words = ["deployment", "run", "retention/retention", "--param", "dry_run=true", "--watch"]
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
