"""`sessionflow run report`: the page by a flow of its own, again after newer results, with what people overruled."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from flows.eligibility import done, obstacle, quality_objection
from flows.process_session import skip
from jobs.report import across_days
from tests.conftest import SESSION as SIDE_SESSION
from tests.conftest import Side
from tests.environments import environment
from tests.forging_session import LICK, PROJECT, SESSION, mark_done, plant
from tests.prefect_server import PrefectServer
from tests.test_cli import sessionflow
from tests.test_report import MANAGER, no_cell, plant_good
from trackers.layout import SessionPaths, Volumes
from trackers.lock import SessionLock
from trackers.names import ProcessingPipelines as P
from trackers.site import Site

EARLY, LATE = "2026-11-25T04:00:00+00:00", "2026-11-25T05:00:00+00:00"


def facts(**ended: str) -> dict[str, object]:
    """Return what `describe` says of a prepared session whose named pipelines have ended so; the others did not run."""
    names = {p.name: {"status": "succeeded", "ended": EARLY} for p in (P.CHECKSUM, P.PREPARATION)}
    names |= {p.name: {"status": "", "ended": ""} for p in (P.BEHAVIOR, P.SUITE2P, P.VIDEO, P.REPORT)}
    names |= {name: {"status": "succeeded", "ended": time} for name, time in ended.items()}
    return {
        "complete": True,
        "prepared": True,
        "archived": False,
        "session_type": "mesoscope experiment",
        "pipelines": names,
    }


def test_a_report_is_made_again_once_newer_results_are_there() -> None:
    assert not done(P.REPORT, facts(SUITE2P=LATE, REPORT=EARLY))
    assert done(P.REPORT, facts(SUITE2P=EARLY, REPORT=LATE)).startswith("done already")


def test_a_page_that_could_not_be_made_after_multi_day_tracking_is_made_by_the_next_run(side: Side) -> None:
    assert side.get("describe")["tracked"] == ""
    site = Site.from_json(side.arguments["site"])
    for dataset, session, ended in (("early", SIDE_SESSION, EARLY), ("late", SIDE_SESSION, LATE), ("other", "x", "9")):
        folder = site.datasets / "Project" / dataset / "305"
        (folder / session).mkdir(parents=True)
        (folder / "results").mkdir()
        (folder / "results/MULTIDAY.json").write_text(json.dumps({"ended": ended}))
    tracked = side.get("describe")["tracked"]
    assert tracked == LATE
    assert not done(P.REPORT, {**facts(SUITE2P=EARLY, REPORT=EARLY), "tracked": tracked})
    assert done(P.REPORT, {**facts(SUITE2P=EARLY, REPORT="2026-11-25T05:01:00+00:00"), "tracked": tracked})


def test_a_session_of_which_there_is_nothing_to_show_has_no_report() -> None:
    assert obstacle(P.REPORT, facts()) == "none of behavior, suite2p and video has succeeded"


@pytest.mark.parametrize("shown", ["BEHAVIOR", "SUITE2P", "VIDEO"])
def test_a_session_with_a_result_of_any_kind_has_a_report(shown: str) -> None:
    assert not obstacle(P.REPORT, facts(**{shown: EARLY}))


def test_quality_control_of_results_that_were_replaced_since_is_no_pass() -> None:
    passed = {"quality_objection": ""}
    assert quality_objection(facts(BEHAVIOR=EARLY, REPORT=LATE) | passed) == ""
    older = facts(BEHAVIOR=LATE, REPORT=EARLY) | passed
    assert quality_objection(older) == "its quality control is older than its results: run its report again"


def test_a_session_is_processed_without_a_page_where_its_environment_is_not_installed() -> None:
    there = {**facts(SUITE2P=EARLY), "report_problem": "The environment 'report' is not installed (Install it: …)"}
    assert obstacle(P.REPORT, there) == there["report_problem"]
    made = skip(P.REPORT, there | {"target": "Project/305"}, [P.REPORT], [], False)
    assert made is not None
    assert made.succeeded


@pytest.mark.parametrize("named", ["", "early"])
def test_a_page_shows_the_newest_cells_across_days_that_have_its_session_or_those_asked_for(
    tmp_path: Path, named: str
) -> None:
    paths = SessionPaths(Volumes(tmp_path, tmp_path), PROJECT, "305", SESSION)
    for time, (dataset, session) in enumerate((("early", SESSION), ("late", SESSION), ("other", "another session"))):
        folder = tmp_path / "datasets" / PROJECT / dataset / "305"
        (folder / session).mkdir(parents=True)
        (folder / "cells.feather").touch()
        os.utime(folder / "cells.feather", (time, time))
    found = across_days(paths, tmp_path / "datasets", named)
    assert found == tmp_path / "datasets" / PROJECT / (named or "late") / "305"
    assert across_days(paths, tmp_path / "nowhere", "") is None


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_is_made_by_a_flow_and_shows_what_a_person_overruled(tmp_path: Path, prefect: PrefectServer) -> None:
    paths = plant_good(tmp_path)
    SessionLock(paths.lock).release(MANAGER)
    mark_done(paths, P.BEHAVIOR, P.SUITE2P, P.VIDEO)
    no_cell(paths)
    server = tmp_path / "server.yaml"
    roots = {"storage_root": str(tmp_path / "storage"), "working_root": str(tmp_path / "working")}
    server.write_text(yaml.safe_dump({**roots, "environments": {"report": {"python": str(environment("report"))}}}))
    names = ("--project", PROJECT, "--animal", "305", "--session", SESSION, "--server", str(server))
    page = paths.processed_data / "report/report.html"

    done = sessionflow("run", "report", *names, environment=prefect.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"page: {page}" in done.stdout
    assert "fail: no cells" in done.stdout
    assert "Fails: no cells." in page.read_text()
    record = json.loads((paths.tracking_data / "results/REPORT.json").read_text())
    assert record["versions"]["matplotlib"]
    assert SessionLock(paths.lock).read().free

    word = ("qc", "overrule", f"{PROJECT}/305/{SESSION}", "no_cells", "--reason", "the window was closed")
    assert sessionflow(*word, "--server", str(server), environment=prefect.environment).returncode == 0
    done = sessionflow("run", "report", *names, "--reprocess", environment=prefect.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pass (overruled): no cells" in done.stdout
    assert "pass (overruled)" in page.read_text()
    assert "the window was closed" in page.read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_cells_of_a_suite2p_run_that_did_not_succeed_are_neither_shown_nor_judged(
    tmp_path: Path, prefect: PrefectServer
) -> None:
    paths = plant_good(tmp_path)
    SessionLock(paths.lock).release(MANAGER)
    mark_done(paths, P.BEHAVIOR, P.VIDEO)
    server = tmp_path / "server.yaml"
    roots = {"storage_root": str(tmp_path / "storage"), "working_root": str(tmp_path / "working")}
    server.write_text(yaml.safe_dump({**roots, "environments": {"report": {"python": str(environment("report"))}}}))
    names = ("--project", PROJECT, "--animal", "305", "--session", SESSION, "--server", str(server))
    made = sessionflow("run", "report", *names, environment=prefect.environment)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "unknown: no cells (not measured)" in made.stdout
    assert "suite2p has not succeeded" in (paths.processed_data / "report/qc.json").read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_session_of_behavior_alone_gets_a_page_by_process_and_is_forged_where_a_pass_is_required(
    tmp_path: Path, prefect: PrefectServer
) -> None:
    paths = plant(tmp_path, LICK)
    shutil.rmtree(paths.processed_data / "camera_data")
    mark_done(paths, P.BEHAVIOR)
    server = tmp_path / "server.yaml"
    roots = {name: str(tmp_path / name.partition("_")[0]) for name in ("storage_root", "working_root", "datasets_root")}
    pythons = {name: {"python": str(environment(name))} for name in ("report", "forging")}
    server.write_text(yaml.safe_dump({**roots, "environments": pythons}))
    names = ("--project", PROJECT, "--server", str(server))
    forge = ("forge", "learning", *names, "--species", "Mus musculus", "--require-qc", "--sessions", f"305/{SESSION}")

    refused = sessionflow(*forge, environment=prefect.environment)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "it has no quality control yet: run its report first" in refused.stdout + refused.stderr
    made = sessionflow("process", *names, "--animal", "305", "--session", SESSION, environment=prefect.environment)
    assert made.returncode == 0, made.stdout + made.stderr
    assert (paths.processed_data / "report/report.html").exists()
    forged = sessionflow(*forge, environment=prefect.environment)
    assert forged.returncode == 0, forged.stdout + forged.stderr
