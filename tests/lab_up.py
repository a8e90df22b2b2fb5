"""`sessionflow up` in a process of its own, with a Prefect home, a port and volumes of its own."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.prefect_server import REPOSITORY, free_port

START_SECONDS = 150.0  # on a busy computer


class LabUp:
    """A lab's computer with `sessionflow up`; what it printed is in `text`."""

    def __init__(self, root: Path, **variables: str) -> None:
        self.root = root
        self.home = root / "prefect home"
        self.port = free_port()
        self.variables = variables
        self.storage = root / "storage"
        self.working = root / "working"
        self.working.mkdir(parents=True, exist_ok=True)
        self.storage.mkdir(exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    @property
    def environment(self) -> dict[str, str]:
        """As a person's shell has it, who has set Prefect's own variables."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "SESSIONFLOW_"))}
        return {
            **kept,
            "PYTHONPATH": str(REPOSITORY),
            "PREFECT_HOME": str(self.home),
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "XDG_CONFIG_HOME": str(self.root / "config"),
            "XDG_STATE_HOME": str(self.root / "state"),
            "SESSIONFLOW_STORAGE": str(self.storage),
            "SESSIONFLOW_WORKING": str(self.working),
            **self.variables,
        }

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def state(self) -> Path:
        return self.home / "sessionflow"

    @property
    def login(self) -> str:
        return (self.state / "login").read_text().strip()

    @property
    def client_environment(self) -> dict[str, str]:
        return {**self.environment, "PREFECT_API_URL": self.api, "PREFECT_API_AUTH_STRING": self.login}

    @property
    def output(self) -> Path:
        return self.root / f"up-{self._starts}.out"

    @property
    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def command(self, *words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a `sessionflow` command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", *words],
            env=environment or self.environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=100,
        )

    def start(self, *options: str) -> None:
        """Start it and wait until everything is up."""
        self._starts += 1
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "up", *options],
                env=self.environment,
                cwd=self.root,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.wait(lambda: "up after" in self.text, START_SECONDS)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 120) -> int:
        """Tell it to end, and wait; return its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def kill_everything(self) -> None:
        """Cut the power: kill it, its server, its worker, and whatever flow or job runs."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(20)

    def processes(self, word: bytes = b"") -> list[int]:
        """Return the processes that have this home in their environment, and a word in their command."""
        found = []
        mark = f"PREFECT_HOME={self.home}\0".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes() and word in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        """Wait until something holds, and return it; fail with what was printed."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            logs = "\n".join(path.read_text()[-1500:] for path in self.state.glob("*.log"))
            assert time.monotonic() < deadline, f"{self.text}\n{logs}"
            assert self.process is None or self.process.poll() is None, f"{self.text}\n{logs}"
            time.sleep(0.2)
        return found

    def ask(self, path: str, body: Any = None, *, method: str = "", login: str | None = None) -> Any:
        """Ask the API, with the login."""
        request = urllib.request.Request(
            f"{self.api}/{path}",
            json.dumps(body).encode() if body is not None else None,
            {
                "Content-Type": "application/json",
                "Authorization": "Basic " + base64.b64encode((login or self.login).encode()).decode(),
            },
            method=method or ("POST" if body is not None else "GET"),
        )
        patience = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > patience:  # SQLite is busy: every client tries again
                    raise
                time.sleep(0.5)

    def launch(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment (FLOW/NAME); return its id."""
        found = self.ask(f"deployments/name/{deployment}")
        return str(self.ask(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"flow_runs/{run_id}")
        return found

    def ended(self, run_id: str, seconds: float = 90) -> dict[str, Any]:
        """Wait until a run is terminal; return it."""
        terminal = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

        def over() -> dict[str, Any] | None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                found = self.run(run_id)
                return found if found["state_type"] in terminal else None
            return None

        found: dict[str, Any] = self.wait(over, seconds)
        return found

    def deploy_long(self) -> None:
        """Deploy the test's own flow, whose jobs are shell commands."""
        flow = self.ask("flows/", {"name": "long"})
        self.ask(
            "deployments/",
            {
                "name": "long",
                "flow_id": flow["id"],
                "entrypoint": "tests.long_flow.long",
                "work_pool_name": "sessionflow",
                "pull_steps": [],
                "concurrency_limit": 1,
                "enforce_parameter_schema": False,
            },
        )

    def launch_long(self, *commands: str) -> str:
        server = {"storage_root": str(self.storage), "working_root": str(self.working)}
        return self.launch("long/long", commands=[list(commands)], server=server)
