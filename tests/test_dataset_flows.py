"""A dataset's flow that is cancelled or killed: its jobs end or are continued, and no lock outlives it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SESSION, make_session
from tests.prefect_server import REPOSITORY, PrefectServer
from trackers.layout import SessionPaths, Volumes
from trackers.names import ProcessingPipelines
from trackers.tracker import ProcessingTracker, TrackerState

NAMES = [SESSION, "2025-08-27-18-30-15-123456"]
PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from flows.multiday import multiday
from tasks.compute_server import ComputeServer

root, names = sys.argv[1], sys.argv[2:]
server = ComputeServer(
    storage_root=root,
    datasets_root=root + "/datasets",
    environments={"suite2p": {"python": root + "/python"}, "report": {"python": root + "/nowhere"}},
)
report = asyncio.run(multiday("Project", "305", names, "learning", server=server))
print(json.dumps({"succeeded": report.succeeded, "sentence": report.sentence, "notes": report.notes}))
"""


class Lab:
    """Two sessions on which suite2p has succeeded, and jobs that wait until they may go on."""

    def __init__(self, root: Path, prefect: PrefectServer) -> None:
        self.root, self.prefect = root, prefect
        for name in NAMES:
            make_session(root, session=name, kind="mesoscope experiment")
            for pipeline in ("CHECKSUM", "PREPARATION", "SUITE2P"):
                paths = SessionPaths(Volumes(root, root), "Project", "305", name)
                tracker = paths.tracker(ProcessingPipelines[pipeline])
                tracker.parent.mkdir(exist_ok=True)
                ProcessingTracker(tracker).set_state(TrackerState(complete=True))
        program = root / "python"
        program.write_text(
            f"#!/bin/bash\necho began >> '{root}/trace'\nuntil [ -e '{root}/go' ]; do sleep 0.05; done\n"
        )
        program.chmod(0o755)

    def flow(self) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", PROGRAM, str(self.root), *NAMES]
        environment, pipe = self.prefect.environment, subprocess.PIPE
        return subprocess.Popen(words, env=environment, cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True)

    def wait(self, condition: Callable[[], bool], flow: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 40
        while not condition():
            if time.monotonic() > deadline or flow.poll() is not None:
                flow.kill()
                raise AssertionError(flow.communicate())
            time.sleep(0.05)

    def began(self) -> int:
        trace = self.root / "trace"
        return len(trace.read_text().split()) if trace.exists() else 0

    def holders(self) -> list[Path]:
        return sorted(self.root.rglob("*lock_holder.yaml"))


@pytest.fixture
def lab(tmp_path: Path, prefect: PrefectServer) -> Lab:
    return Lab(tmp_path, prefect)


def report(flow: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = flow.communicate(timeout=60)
    assert flow.returncode == 0, errors
    return dict(json.loads(out.strip().splitlines()[-1]))


def test_a_killed_flow_is_continued_by_the_next_one_and_all_locks_are_free_after_it(lab: Lab) -> None:
    flow = lab.flow()
    lab.wait(lambda: lab.began() == 1, flow)
    assert len(lab.holders()) == 3
    flow.kill()
    flow.communicate()
    assert len(lab.holders()) == 3
    again = lab.flow()
    time.sleep(2)
    (lab.root / "go").touch()
    assert report(again)["succeeded"]
    assert lab.began() == 3  # discovery, which the dead flow had begun, and an extraction for each session
    assert not lab.holders()


def test_a_cancelled_flow_ends_its_jobs_and_frees_all_locks(lab: Lab) -> None:
    flow = lab.flow()
    lab.wait(lambda: lab.began() == 1, flow)
    flow.send_signal(signal.SIGINT)
    flow.communicate(timeout=60)
    assert flow.returncode != 0
    assert not lab.holders()
    folder = lab.root / "datasets" / "Project" / "learning" / "305" / "submissions" / "multiday"
    assert json.loads((folder / "0001" / "submission.json").read_text())["status"] == "aborted"


def test_a_missing_environment_of_the_page_is_a_note_and_the_result_stands(lab: Lab) -> None:
    (lab.root / "go").touch()
    said = report(lab.flow())
    assert said["succeeded"]
    (note,) = said["notes"]
    assert note.startswith(f"the page of Project/305/{NAMES[0]}, Project/305/{NAMES[1]}: not made, because")
    assert "sessionflow server install local --with report" in note
