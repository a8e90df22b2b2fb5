"""Launching on a real Prefect server with a login: one run at a time for a session, nothing sent twice, what became."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flows.launch import CHECKSUM_LABEL, Outcome, Spool, flush, latest, launch, outcome
from jobs.checksum import directory_checksum
from tests.conftest import make_session
from tests.launching import LOGIN, Lab, a_session, listening, passing_on, running_lab
from tests.prefect_server import REPOSITORY, free_port

AWAY = f"http://127.0.0.1:{free_port()}/api"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture(autouse=True)
def place(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", lab.api)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", LOGIN)
    monkeypatch.setenv("SESSIONFLOW_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def names(session: str) -> dict[str, Any]:
    return {"project": "Project", "animal": 305, "session": session}


def patiently(session: str, spool: str = "", deployment: str = "process-session", **more: Any) -> Outcome:
    """Launch; on a busy machine a request may be kept, which other tests are about: it is sent then."""
    found = launch(deployment, **names(session), spool=spool, **more)
    while found.kept and not found.run_id:
        found = flush(spool=spool)[-1]
    return found


def test_a_launched_run_is_named_and_tagged_and_says_who_asked_and_has_a_link(lab: Lab) -> None:
    session = a_session()
    found = launch("process-session", **names(session), requested_by="Ann", reprocess=True)
    run = lab.ask("GET", f"/flow_runs/{found.run_id}")
    assert run["name"] == f"Project/305/{session}"
    assert set(run["tags"]) == {"305", "Project", session, "sessionflow"}
    assert run["parameters"] == {
        **names(session),
        "animal": "305",
        "requested_by": "Ann",
        "reprocess": True,
    }
    assert found.url == lab.api.replace("/api", f"/runs/flow-run/{found.run_id}")
    assert found.url in found.words
    assert (found.new, found.ended, found.verified, found.state) == (True, False, None, "Scheduled")
    assert patiently(a_session()).words.endswith("it begins when one does)")  # there is no worker


def test_it_is_said_that_the_work_pool_is_paused_and_how_it_goes_on(lab: Lab) -> None:
    lab.ask("POST", "/work_pools/", {"name": "pool", "type": "process"})
    deployment, session = lab.deployment("behind-a-pool"), a_session()
    lab.patch(f"deployments/{deployment}", {"work_pool_name": "pool"})
    lab.patch("work_pools/pool", {"is_paused": True})
    for _ in range(2):  # the second time the run is there already
        words = patiently(session, deployment="behind-a-pool").words
        assert words.endswith("it begins when that is resumed, prefect work-pool resume pool)"), words
    lab.patch("work_pools/pool", {"is_paused": False})
    assert "no worker asks" in patiently(session, deployment="behind-a-pool").words
    lab.set_state(lab.of_session(session)[0]["id"], "RUNNING")
    assert "no worker asks" not in patiently(session, deployment="behind-a-pool").words


def test_while_the_last_run_has_not_ended_it_is_returned_and_afterwards_a_new_one_is_made(lab: Lab) -> None:
    session = a_session()
    first = patiently(session)
    for state in ("PENDING", "RUNNING", "PAUSED", "CANCELLING"):
        lab.set_state(first.run_id, state)
        again = patiently(session)
        assert (again.run_id, again.new) == (first.run_id, False)
    runs = [first.run_id]
    for state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
        lab.set_state(runs[-1], state)
        runs.append(patiently(session).run_id)
        assert patiently(session).run_id == runs[-1]
    assert len(set(runs)) == 5
    assert {run["id"] for run in lab.of_session(session)} == set(runs)
    assert "(it was not asked for reprocess=True)" in patiently(session, reprocess=True).words
    assert patiently(a_session()).run_id not in runs


def test_a_run_that_was_started_from_the_page_or_by_a_schedule_is_found_and_one_planned_for_later_is_not(
    lab: Lab,
) -> None:
    there = lab.ask("GET", "/deployments/name/process-session/process-session")["id"]
    session = a_session()
    by_hand = lab.by_hand(there, session)
    assert patiently(session).run_id == by_hand
    lab.set_state(by_hand, "COMPLETED")
    assert patiently(session).run_id != by_hand

    session = a_session()
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2090-01-01T00:00:00Z"}}
    planned = lab.by_hand(there, session, state=later)
    now = patiently(session)
    assert now.run_id != planned
    assert patiently(session).run_id == now.run_id


def test_a_run_of_another_deployment_is_another_one(lab: Lab) -> None:
    session = a_session()
    lab.deployment("checksum")
    assert launch("checksum", **names(session)).run_id != patiently(session).run_id
    there = lab.ask("GET", "/deployments/name/process-session/process-session")
    twin = {key: there[key] for key in ("flow_id", "parameter_openapi_schema")}
    lab.ask("POST", "/deployments/", {**twin, "name": "other server", "parameters": {"server": {"host": "other"}}})
    assert launch("process-session/other server", **names(session)).run_id != patiently(session).run_id


def test_rigs_that_launch_a_session_at_the_same_moment_get_the_same_run(lab: Lab, tmp_path: Path) -> None:
    session = a_session()
    for _ in range(3):
        ready = threading.Barrier(8)

        def rig(number: int, ready: threading.Barrier = ready) -> str:
            ready.wait()
            return patiently(session, spool=str(tmp_path / str(number))).run_id

        with ThreadPoolExecutor(8) as rigs:
            found = set(rigs.map(rig, range(8)))
        assert len(found) == 1
        lab.set_state(found.pop(), "FAILED")
    assert len(lab.of_session(session)) == 3


def test_what_the_server_refuses_is_reported_and_not_kept(lab: Lab) -> None:
    wrong = launch("process-session", **names(a_session()), reprocess="perhaps")
    assert "Validation failed for field 'reprocess'. Failure reason: 'perhaps'" in wrong.words
    missing = launch("process-session", project="Project")
    assert "'animal' is a required property" in missing.words
    unknown = launch("proces-session", **names(a_session()))
    assert "has no deployment proces-session/proces-session" in unknown.words
    impossible = launch("process-session", **names("2025-13-40-18-30-15-123456"))
    assert "does not match YYYY-MM-DD-HH-MM-SS-ffffff, a UTC date and time that there is. The" in impossible.words
    for each in (wrong, missing, unknown, impossible):
        assert (each.run_id, each.kept) == ("", "")
        assert "not kept" in each.words
    assert Spool().waiting() == []


def test_an_option_that_the_flow_does_not_have_starts_nothing_and_is_named(lab: Lab) -> None:
    session = a_session()
    found = launch("process-session", **names(session), repocess=True)
    assert "takes no repocess; it takes project, animal," in found.words
    assert (found.run_id, found.kept, lab.of_session(session)) == ("", "", [])


def test_a_wrong_login_keeps_the_request_until_the_right_one_is_there() -> None:
    session = a_session()
    kept = launch("process-session", **names(session), auth="lab:wrong")
    assert "refuses the login" in kept.words
    assert "wrong" not in Path(kept.kept).read_text()
    assert LOGIN not in Path(kept.kept).read_text()
    (sent,) = flush()
    assert sent.run_id
    assert Spool().waiting() == []


def kept_while_away(session: str, lab: Lab) -> Path:
    """Keep a request for a session as if the server had been away."""
    path = Path(launch("process-session", **names(session), api=AWAY).kept)
    spool = Spool()
    spool.write(path, {**spool.read(path), "api": lab.api})
    return path


def test_what_is_kept_is_sent_by_the_next_launch_the_oldest_first(lab: Lab) -> None:
    sessions = [a_session() for _ in range(3)]
    for session in sessions:
        kept_while_away(session, lab)
        time.sleep(1.1)  # a file's name has its second
    found = launch("process-session", **names(a_session()))
    assert found.run_id
    left = flush()
    assert len(left) == 0 or "earlier request" in found.words  # on a busy machine not all were sent at once
    runs = [lab.of_session(session) for session in sessions]
    assert [len(each) for each in runs] == [1, 1, 1]
    created = [each[0]["created"] for each in runs]
    assert created == sorted(created)
    assert Spool().waiting() == []


def test_a_kept_request_whose_session_has_a_run_meanwhile_gets_that_one(lab: Lab) -> None:
    session = a_session()
    kept_while_away(session, lab)
    by_hand = lab.by_hand(lab.ask("GET", "/deployments/name/process-session/process-session")["id"], session)
    (sent,) = flush()
    assert sent.run_id == by_hand
    assert len(lab.of_session(session)) == 1


def test_a_request_whose_answer_was_lost_is_not_sent_twice(lab: Lab) -> None:
    session = a_session()
    with listening(passing_on(lab.port, lost=b"create_flow_run")) as api:
        kept = launch("process-session", **names(session), api=api, auth=LOGIN)
        assert not kept.run_id
        deadline = time.monotonic() + 20
        while not (runs := lab.of_session(session)):  # the server has it all the same
            assert time.monotonic() < deadline, kept
        lab.set_state(runs[0]["id"], "COMPLETED")
        assert json.loads(Path(kept.kept).read_text())["key"].startswith("launch-")
    path, spool = Path(kept.kept), Spool()
    spool.write(path, {**spool.read(path), "api": lab.api})
    (sent,) = flush()
    assert (sent.run_id, sent.ended) == (runs[0]["id"], True)
    assert len(lab.of_session(session)) == 1
    assert patiently(session).run_id != sent.run_id


def test_a_sender_that_is_killed_half_way_leaves_nothing_to_be_sent_twice(lab: Lab) -> None:
    """Killed after the server had the request, and before the file was removed."""
    session = a_session()
    path = kept_while_away(session, lab)
    program = (
        "import os, pathlib\n"
        "from flows.launch import flush\n"
        "pathlib.Path.unlink = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        "flush()"
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False, cwd=REPOSITORY)
    assert killed.returncode == -signal.SIGKILL
    (run,) = lab.of_session(session)
    lab.set_state(run["id"], "FAILED")
    assert path.exists()
    (sent,) = flush()
    assert sent.run_id == run["id"]
    assert len(lab.of_session(session)) == 1
    assert not path.exists()


def test_two_that_send_what_is_kept_at_the_same_moment_send_each_request_once(lab: Lab) -> None:
    sessions = [a_session() for _ in range(5)]
    for session in sessions:
        kept_while_away(session, lab)
    with ThreadPoolExecutor(4) as senders:
        said = [each for found in senders.map(lambda _: flush(), range(4)) for each in found]
    flush()
    assert [len(lab.of_session(session)) for session in sessions] == [1] * 5
    assert len([each for each in said if each.run_id]) == 5
    assert Spool().waiting() == []


def test_a_kept_request_that_is_refused_is_set_aside_and_holds_up_none_behind_it(lab: Lab) -> None:
    path = kept_while_away(a_session(), lab)
    spool = Spool()
    request = spool.read(path)
    spool.write(path, {**request, "parameters": {**request["parameters"], "reprocess": "perhaps"}})
    time.sleep(1.1)
    good = a_session()
    kept_while_away(good, lab)
    refused, sent = flush()
    assert "Validation failed for field 'reprocess'" in refused.words
    assert path.with_suffix(".refused").exists()
    assert [run["id"] for run in lab.of_session(good)] == [sent.run_id]


def test_what_a_run_and_its_parts_say_is_three_valued(lab: Lab) -> None:
    """The labels and states as the flows leave them; the next test has the flows."""
    found = patiently(a_session())

    def facts() -> tuple[bool | None, bool | None, bool | None]:
        asked = outcome(found.url)
        return asked.ended, asked.succeeded, asked.verified

    def label(words: str) -> None:
        lab.label(found.run_id, CHECKSUM_LABEL, words)

    assert facts() == (False, None, None)
    label("not verified (it did not run) 2026-01-01T00:00:00Z")
    assert facts() == (False, None, None)
    lab.set_state(found.run_id, "FAILED", "checksum of …: failed")
    assert facts() == (True, False, False)
    label("verified 2026-01-01T00:00:01Z")
    assert facts() == (True, False, True)
    lab.set_state(found.run_id, "RUNNING")
    assert facts() == (False, None, True)
    lab.set_state(found.run_id, "COMPLETED")
    assert facts() == (True, True, True)
    assert outcome(found.run_id, api=AWAY).ended is None
    assert "could not be asked" in outcome(found.run_id, api=AWAY).words
    assert "not found" in outcome("00000000-0000-0000-0000-000000000000").words
    assert outcome("../admin").ended is None
    assert "No run was launched" in latest("process-session", **names(a_session())).words


def test_a_session_that_was_verified_does_not_speak_for_the_others_of_its_project(lab: Lab) -> None:
    flow = lab.ask("POST", "/flows/", {"name": "process-project"})["id"]
    parent = lab.ask("POST", "/flow_runs/", {"flow_id": flow, "parameters": {"project": "Project"}})["id"]
    task = {"flow_run_id": parent, "task_key": "session", "dynamic_key": "0"}
    caller = lab.ask("POST", "/task_runs/", task)["id"]
    part = {"flow_id": flow, "parameters": names(a_session()), "parent_task_run_id": caller}
    run = lab.ask("POST", "/flow_runs/", part)["id"]
    lab.label(run, CHECKSUM_LABEL, "verified 2026-01-01T00:00:00Z")
    assert outcome(run).verified
    assert outcome(parent).verified is None


def test_a_program_that_waits_has_its_request_sent_as_soon_as_the_server_is_there(lab: Lab) -> None:
    session = a_session()
    port = free_port()
    with ThreadPoolExecutor() as rig:
        waiting = rig.submit(
            launch, "process-session", **names(session), api=f"http://127.0.0.1:{port}/api", auth=LOGIN, wait=1.5
        )
        wait_until(Spool().waiting)
        with listening(passing_on(lab.port), port=port):
            wait_until(lambda: lab.of_session(session))
            (run,) = lab.of_session(session)
            lab.set_state(run["id"], "COMPLETED")
            done = waiting.result()
    assert (done.run_id, done.ended, done.succeeded, done.verified) == (run["id"], True, True, None)


@pytest.fixture
def worker(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """A worker that runs the flow itself, on a storage root that is returned."""
    (tmp_path / "storage").mkdir()
    storage = {"SESSIONFLOW_STORAGE": str(tmp_path / "storage"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "rigs", "--type", "process"],
            env={**lab.environment, **storage},
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: lab.ask("POST", "/work_pools/filter", {"work_pools": {"name": {"any_": ["rigs"]}}}, list))
        there = lab.ask("GET", "/deployments/name/process-session/process-session")
        how = {"entrypoint": "flows.process_session.process_session", "pull_steps": [], "work_pool_name": "rigs"}
        same = {key: there[key] for key in ("flow_id", "parameter_openapi_schema", "enforce_parameter_schema")}
        lab.ask("POST", "/deployments/", {**same, **how, "name": "rigs"})
        yield tmp_path / "storage"
    finally:
        process.terminate()
        process.wait(60)


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_the_flow_says_whether_the_checksum_was_verified_before_a_local_copy_is_removed(lab: Lab, worker: Path) -> None:
    good, bad, incomplete = a_session(), a_session(), a_session()
    for session, complete in ((good, True), (bad, True), (incomplete, False)):
        folder = make_session(worker, session=session, kind="window checking", complete=complete) / "raw_data"
        (folder / "ax_checksum.txt").write_text("0" * 32 if session is bad else directory_checksum(folder))

    def done(session: str) -> Outcome:
        found = launch("process-session/rigs", **names(session), wait=2, raise_errors=True)
        assert found.ended, found
        return found

    with ThreadPoolExecutor() as rigs:
        first, second = rigs.map(done, (good, bad))
    assert (first.succeeded, first.verified) == (True, True), first
    assert (second.succeeded, second.verified) == (False, False), second
    third = launch("process-session/rigs", **names(incomplete), wait=0.5, raise_errors=True)
    assert (third.ended, third.verified) == (False, None), third  # it awaits its data
    assert "checksum verified" in first.words
    assert "checksum" in second.words
    assert "Traceback" not in second.words
    again = done(good)  # it has been verified before, and nothing is done
    assert again.run_id != first.run_id
    assert (again.succeeded, again.verified) == (True, True), again
    asked = subprocess.run(
        [sys.executable, "-m", "flows.cli", "outcome", again.run_id],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.stdout.endswith("ended: yes, succeeded: yes, checksum verified: yes\n")
    assert asked.returncode == 0
    assert latest("process-session/rigs", **names(good)).run_id == again.run_id
