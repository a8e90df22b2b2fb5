"""Worker programs of sl-shared-assets 5.1.0, which drive the tracker themselves, as the commands of jobs."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.conftest import Side, all_ended
from tests.daemon import wait_until
from tests.prefect_server import REPOSITORY
from trackers.graph import MANAGER_ID, Graph, Job, Resources, Stage
from trackers.names import TrackerFileNames


def submitted(side: Side, jobs: int, *words: str) -> dict[str, Any]:
    """Submit jobs that drive the tracker; the last one gets `words`."""
    side.take_lock()
    tracker = next((side.root / "storage").rglob("raw_data")).parent / "tracking_data" / TrackerFileNames.BEHAVIOR
    command = (sys.executable, "-m", "tests.worker", str(tracker), MANAGER_ID, str(jobs))
    graph = Graph(
        (
            Stage(
                "work",
                tuple(
                    Job(
                        f"job-{n}",
                        (*command, *(words if n == jobs - 1 else ())),
                        Resources(),
                        variables={"PYTHONPATH": str(REPOSITORY)},
                        drives_tracker=True,
                    )
                    for n in range(jobs)
                ),
            ),
        )
    )
    view: dict[str, Any] = side.get(
        "submit", pipeline="BEHAVIOR", graph=graph.to_json(), manager_id=side.manager_id, settings={}
    )
    return view


@pytest.mark.parametrize("jobs", [1, 2, 3, 7])
def test_the_tracker_is_right_in_the_end_though_the_programs_miscount(side: Side, jobs: int) -> None:
    view = side.wait(submitted(side, jobs), all_ended)
    assert side.get("finish", pipeline="BEHAVIOR", number=view["number"])["status"] == "succeeded"
    state = side.get("tracker_show", pipeline="BEHAVIOR")
    assert (state["status"], state["manager_id"]) == ("succeeded", -1)


def test_a_program_that_fails_leaves_a_failed_pipeline_whatever_it_wrote(side: Side) -> None:
    view = side.wait(submitted(side, 3, "fail"), all_ended)
    closed = side.get("finish", pipeline="BEHAVIOR", number=view["number"])
    assert closed["status"] == "failed"
    assert closed["jobs"][2]["tail"] == ["it went wrong"]
    assert side.get("tracker_show", pipeline="BEHAVIOR")["status"] == "failed"


def test_a_tracker_that_a_program_leaves_half_written_is_right_in_the_end(side: Side) -> None:
    view = submitted(side, 2, "torn")
    view = side.wait(view, lambda v: all(job["state"] == "RUNNING" for job in v["jobs"]))
    tracker = next((side.root / "storage").rglob(str(TrackerFileNames.BEHAVIOR)))
    assert wait_until(lambda: not tracker.read_text(), 10)
    view = side.wait(view, all_ended)
    assert side.get("finish", pipeline="BEHAVIOR", number=view["number"])["status"] == "failed"
    assert side.get("tracker_show", pipeline="BEHAVIOR")["status"] == "failed"
