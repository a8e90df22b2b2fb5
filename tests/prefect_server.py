"""A real Prefect server for the tests, and flows in processes of their own that can be interrupted and killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from flows import PREFECT_SETTINGS

REPOSITORY = Path(__file__).parents[1]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class PrefectServer:
    """`prefect server start` with a database of its own, and `settings` of its own."""

    home: Path
    port: int = field(default_factory=free_port)
    settings: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api,
            **PREFECT_SETTINGS,
            **self.settings,
            "PYTHONPATH": str(REPOSITORY),
        }

    def start(self) -> None:
        with (self.home / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)],
                env={key: value for key, value in self.environment.items() if key != "PREFECT_API_URL"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait(self.process)
        except BaseException:  # a fixture that fails before it has given anything ends nothing
            if self.process.poll() is None:
                self.stop()
            raise

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 100  # on a busy machine it takes more than a minute
        while True:
            try:
                with urllib.request.urlopen(f"{self.api}/health", timeout=2):
                    return
            except OSError:
                assert time.monotonic() < deadline, (self.home / "server.log").read_text()[-2000:]
                assert process.poll() is None, (self.home / "server.log").read_text()[-2000:]
                time.sleep(0.1)

    def stop(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.api}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        patience = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > patience:  # SQLite is busy: every client tries again
                    raise
                time.sleep(0.2)

    def runs(self, name: str) -> list[dict[str, Any]]:
        """Return the flow runs of one name, newest first."""
        filters = {"flow_runs": {"name": {"any_": [name]}}, "sort": "EXPECTED_START_TIME_DESC"}
        found: list[dict[str, Any]] = self.post("flow_runs/filter", filters)
        return found
