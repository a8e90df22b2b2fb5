"""The watch of `sessionflow up` says in its log what it did, and what goes wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.daemon import wait_until
from tests.prefect_server import REPOSITORY, free_port


def test_what_goes_wrong_stands_in_the_log_with_its_day(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    }
    log = tmp_path / "watch.log"
    with log.open("wb") as output:
        command = [sys.executable, "-P", "-m", "flows.watch", str(tmp_path / "told.json")]
        watch = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        assert wait_until(lambda: "arrivals: " in log.read_text(), 60), log.read_text()
    finally:
        watch.kill()
        watch.wait()
    assert re.search(r"(?m)^\d{4}-\d\d-\d\d .*arrivals: .*; tried again every minute$", log.read_text()), (
        log.read_text()
    )
