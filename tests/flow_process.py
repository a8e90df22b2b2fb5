"""Flows in processes of their own, which can be interrupted and killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.prefect_server import REPOSITORY, PrefectServer


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server that all tests with flows in processes share."""
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture(scope="module")
def own_prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server that the tests of one module have for themselves: they count runs, or set its limits."""
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as server:
        yield server


class Flow:
    """A long flow in a process of its own; for its words see `tests.long_flow`."""

    def __init__(self, root: Path, prefect: PrefectServer, *words: str, options: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.long_flow", *options, str(root), *words],
            env=prefect.environment,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until(self, condition: Any, seconds: float = 40) -> None:
        """Wait until `condition()` holds; else fail with what the flow has said."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(self.process.communicate())
            time.sleep(0.05)

    def end(self, seconds: float = 40) -> tuple[int, dict[str, Any]]:
        """Wait for its end; return exit code and what it printed."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(self.process.communicate()) from None
        lines = out.strip().splitlines()
        report = json.loads(lines[-1]) if lines else {}
        return self.process.returncode, {**report, "stderr": err}
