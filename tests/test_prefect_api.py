"""Prefect's server: a temporary one survives Ctrl-C until the flow has cleaned up; where there is none, a sentence."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml

from tasks.interruption import REPORT_SECONDS
from tests.conftest import SESSION, Side, make_session
from tests.prefect_server import REPOSITORY, PrefectServer, free_port
from trackers.errors import PrefectError

CLEANUP_SECONDS = 10 + 10  # promised, and slack for a busy machine


def environment(home: Path, **changes: str) -> dict[str, str]:
    unset = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return {**unset, "PREFECT_HOME": str(home), "PYTHONPATH": str(REPOSITORY), **changes}


def checksum(root: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = ["run", "checksum", "--storage", str(root / "storage"), "--project", "Project", "--animal", "305"]
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *words, "--session", SESSION],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_frees_the_lock_though_prefect_has_a_temporary_server(side: Side) -> None:
    """The terminal sends SIGINT to every process of the foreground; the temporary server is one of them."""
    command = [sys.executable, "-m", "tests.long_flow", str(side.root), f"echo x > {side.root}/begun; sleep 60"]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(REPOSITORY)
        os.execve(command[0], command, environment(side.root / "home"))
    try:
        threading.Thread(target=drain, args=(terminal,), daemon=True).start()
        wait_until((side.root / "begun").exists, 90)
        os.write(terminal, b"\x03")
        wait_until(lambda: side.get("lock_show")["manager_id"] == -1, CLEANUP_SECONDS)
        wait_until(lambda: os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT), CLEANUP_SECONDS)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert side.get("tracker_show", pipeline="CHECKSUM")["status"] == ""


@pytest.mark.slow
def test_a_killed_flow_leaves_no_temporary_server(side: Side) -> None:
    def left() -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if f"PREFECT_HOME={side.root / 'home'}".encode() in (entry / "environ").read_bytes():
                        found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return [command for command in found if "uvicorn" in command]

    command = [sys.executable, "-m", "tests.long_flow", str(side.root), f"echo x > {side.root}/begun; sleep 3"]
    flow = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment(side.root / "home"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until((side.root / "begun").exists, 90)
    assert left()
    flow.kill()
    flow.wait()
    wait_until(lambda: not left(), CLEANUP_SECONDS)


def drain(terminal: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(terminal, 4096):
            pass


@pytest.mark.parametrize("fault", ["server away", "no server allowed", "home a file"])
def test_without_prefect_nothing_is_done_and_one_sentence_says_it(tmp_path: Path, fault: str) -> None:
    session = make_session(tmp_path / "storage")
    home, changes = tmp_path / "home", {}
    if fault == "server away":
        changes["PREFECT_API_URL"] = f"http://127.0.0.1:{free_port()}/api"
    elif fault == "no server allowed":
        changes["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    else:
        home.touch()
    refused = checksum(tmp_path, environment(home, **changes))
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    assert "Nothing was done" in refused.stderr
    assert "PREFECT_API_URL" in refused.stderr
    assert not (session / "tracking_data").exists()


def test_a_run_and_one_within_it_are_created_though_prefect_refused_them_as_often_as_its_client_tries(
    tmp_path: Path, prefect: PrefectServer
) -> None:
    make_session(tmp_path / "storage")
    refused: list[str] = []

    class Busy(BaseHTTPRequestHandler):
        """Prefect's server, in whose place SQLite twice says that it is locked."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if self.path in ("/api/flow_runs/", "/api/task_runs/") and refused.count(self.path) < 2:
                refused.append(self.path)
                self._answer(503, b'{"exception_message":"Service Unavailable"}')
                return
            asked = Request(f"http://127.0.0.1:{prefect.port}{self.path}", body or None, method=self.command)
            asked.add_header("Content-Type", "application/json")
            try:
                with urlopen(asked) as answer:
                    self._answer(answer.status, answer.read())
            except HTTPError as error:
                self._answer(error.code, error.read())

        def _answer(self, code: int, content: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_words: object) -> None:
            pass

        do_GET = do_PATCH = do_POST  # noqa: N815

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as busy:
        threading.Thread(target=busy.serve_forever, daemon=True).start()
        api = f"http://127.0.0.1:{busy.server_port}/api"
        changes = {**prefect.environment, "PREFECT_API_URL": api, "PREFECT_CLIENT_MAX_RETRIES": "0"}
        done = checksum(tmp_path, changes)
        busy.shutdown()
    assert sorted(refused) == [*["/api/flow_runs/"] * 2, *["/api/task_runs/"] * 2]
    assert "ax_checksum.txt is missing" in done.stdout, done.stderr  # the job's own word: it ran


@pytest.mark.slow
def test_a_cancel_frees_the_lock_and_ends_though_prefect_has_gone_and_the_flows_cannot_report_to_it(
    side: Side, tmp_path: Path
) -> None:
    raw_data = side.root / "storage" / "Project" / "305" / SESSION / "raw_data"
    (raw_data / "ax_checksum.txt").write_text("0" * 32)
    with (raw_data / "large.bin").open("wb") as file:
        file.truncate(200 * 2**30)  # without blocks on disk, and long to read
    server = PrefectServer(tmp_path)
    server.start()
    words = ["process", "--storage", str(side.root / "storage"), "--working", str(side.root / "working")]
    names = ["--project", "Project", "--animal", "305", "--session", SESSION]
    command = [sys.executable, "-m", "flows.cli", *words, *names]
    flow = subprocess.Popen(command, env=server.environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: side.get("lock_show")["live_jobs"], 60)
        server.stop()
        flow.terminate()
        wait_until(lambda: side.get("lock_show")["manager_id"] == -1, CLEANUP_SECONDS)
        assert side.get("why")["history"][0]["status"] == "aborted"
        said = flow.communicate(timeout=CLEANUP_SECONDS + REPORT_SECONDS)[1]
        assert flow.returncode == -signal.SIGTERM
        assert "its jobs have ended and the lock is free. Prefect does not answer" in said
    finally:
        flow.kill()
        flow.wait()


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_command_whose_prefect_has_gone_for_good_says_so_and_ends(side: Side, tmp_path: Path) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    held = {"words": ["bash", "-c", f"touch '{begun}'; until [ -e '{go}' ]; do sleep 0.1; done"]}
    roots = {"storage_root": str(side.root / "storage"), "working_root": str(side.root / "working")}
    (tmp_path / "server.yaml").write_text(yaml.safe_dump({**roots, "commands": {"checksum": held}}))
    names = ["--project", "Project", "--animal", "305", "--session", SESSION]
    words = ["run", "checksum", "--server", str(tmp_path / "server.yaml"), *names]
    with PrefectServer(tmp_path, settings={"PREFECT_CLIENT_MAX_RETRIES": "0"}) as server:
        command = [sys.executable, "-m", "flows.cli", *words]
        flow = subprocess.Popen(command, env=server.environment, stderr=subprocess.PIPE, text=True)
        wait_until(begun.exists, 60)
    go.touch()
    try:
        said = flow.communicate(timeout=60)[1]
    finally:
        flow.kill()
        flow.wait()
    assert flow.returncode == PrefectError.exit_code
    assert "Prefect's server has stopped answering" in said
    assert side.get("tracker_show", pipeline="CHECKSUM")["status"] == "succeeded"
    assert side.get("lock_show")["manager_id"] == -1
