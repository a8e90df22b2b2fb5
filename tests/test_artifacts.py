"""What a run leaves in a real Prefect, and that nothing of it can hold a run up."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED, temporary_settings

from tasks import artifacts
from tasks.artifacts import board_of
from tasks.pages import Page, Progress
from tests.conftest import SESSION, Side
from tests.prefect_server import REPOSITORY, PrefectServer
from tests.sshd import Sshd

StartSshd = Callable[..., Sshd]
PAGE = Page("a-key", "a title", "text")


@contextmanager
def long_flow(side: Side, prefect: PrefectServer, *words: str, **server: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a flow in a process of its own; it is ended at the latest with the block."""
    volumes = {"storage_root": str(side.root / "storage"), "working_root": str(side.root / "working")}
    description = side.root / "server.yaml"
    description.write_text(json.dumps({**volumes, **server}))  # JSON is YAML
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.long_flow", "--server", str(description), str(side.root), *words],
        env=prefect.environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=40)


def until(get: Callable[[], Any], seconds: float = 40) -> Any:
    """Wait until something is true; return it."""
    deadline = time.monotonic() + seconds
    while not (found := get()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def newest_run(prefect: PrefectServer, known: set[str]) -> str:
    return str(until(lambda: [r["id"] for r in prefect.runs("long 305") if r["id"] not in known])[0])


def runs(prefect: PrefectServer) -> set[str]:
    return {run["id"] for run in prefect.runs("long 305")}


def artifacts_of(prefect: PrefectServer, run: str, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = prefect.post("artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return [artifact for artifact in found if artifact["type"] == kind]


def task_runs(prefect: PrefectServer, run: str) -> dict[str, str]:
    """Return the state's name of each task run by its name."""
    found = prefect.post("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return {task_run["name"]: task_run["state_name"] for task_run in found}


def log_of(prefect: PrefectServer, run: str) -> str:
    lines = prefect.post("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
    return "\n".join(line["message"] for line in lines)


def test_a_failed_run_leaves_its_progress_and_a_page_that_begins_with_the_reason(
    side: Side, prefect: PrefectServer
) -> None:
    known = runs(prefect)
    with long_flow(side, prefect, "echo the mouse has left >&2; exit 3", "true") as flow:
        assert flow.wait(60) == 1
    run = newest_run(prefect, known)
    (progress,), (page,) = artifacts_of(prefect, run, "progress"), artifacts_of(prefect, run, "table")
    assert progress["data"] == 100
    assert "failed" in progress["description"]
    assert page["key"].startswith(f"project-305-{SESSION}-checksum-")
    assert page["description"].partition("\n\n")[2].startswith("**job-0 FAILED**")
    assert "the mouse has left" in page["description"]
    (failed, _) = json.loads(page["data"])
    assert (failed["job"], failed["state"], failed["log"]) == ("work-0: job-0", "FAILED", "job-0/1/errors.log")
    until(lambda: [s for name, s in task_runs(prefect, run).items() if name.endswith("FAILED")] == ["Failed"])


def test_the_pages_of_one_session_and_pipeline_are_a_history(side: Side, prefect: PrefectServer) -> None:
    known = runs(prefect)
    keys = []
    for _ in range(2):
        with long_flow(side, prefect, "exit 1") as flow:
            flow.wait(60)
        run = newest_run(prefect, known)
        known.add(run)
        keys += [page["key"] for page in artifacts_of(prefect, run, "table")]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_job_that_waits_says_why_in_its_task_runs_name_and_in_the_progress(
    side: Side, prefect: PrefectServer, tmp_path: Path
) -> None:
    known = runs(prefect)
    go = tmp_path / "go"
    words = [f"until [ -e '{go}' ]; do sleep 0.2; done"] * 2
    with long_flow(side, prefect, *words, resources={"checksum": {"cpus": 10000}}):  # each runs alone
        run = newest_run(prefect, known)
        queued = until(lambda: [name for name, state in task_runs(prefect, run).items() if state == "Queued"])
        assert ": " in queued[0].removeprefix("work: job-")
        progress = until(lambda: artifacts_of(prefect, run, "progress"))[0]
        assert "0 of 2 jobs have ended" in progress["description"]
        assert "pending" in progress["description"]
        go.touch()
        until(lambda: set(task_runs(prefect, run).values()) == {"Completed"})
    found = prefect.post("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    assert sorted(task_run["name"] for task_run in found if task_run["tags"] == ["work-0"]) == [
        "work-0: job-0",
        "work-0: job-1",
    ]


@pytest.mark.slow
def test_a_run_shows_what_it_waits_for_and_that_it_is_over(
    side: Side, prefect: PrefectServer, own_sshd: StartSshd, tmp_path: Path
) -> None:
    sshd, known, go = own_sshd(), runs(prefect), tmp_path / "go"
    environment = {"python": sys.executable, "activate": f"export PYTHONPATH='{REPOSITORY}'"}
    way = {"host": sshd.host, "port": sshd.port, "user": sshd.account, "name": "lab"}
    files = {"key_file": str(sshd.key_file), "known_hosts_file": str(sshd.known_hosts_file)}
    words = f"until [ -e '{go}' ]; do sleep 0.2; done"
    with long_flow(side, prefect, words, **way, **files, environments={"core": environment}) as flow:
        run = newest_run(prefect, known)
        until(lambda: artifacts_of(prefect, run, "progress"))
        sshd.daemon.kill()
        sshd.drop_connections()
        waiting = "lab: waiting for the server"
        until(lambda: waiting in artifacts_of(prefect, run, "progress")[0]["description"])
        until(lambda: waiting in log_of(prefect, run))
        sshd.start()
        until(lambda: "waiting" not in artifacts_of(prefect, run, "progress")[0]["description"])
        until(lambda: "lab answers again" in log_of(prefect, run))
        go.touch()
        assert flow.wait(60) == 0
    assert log_of(prefect, run).count(waiting) == 1


@contextmanager
def somebody_who(*answers: bytes | None, heard: list[bytes] | None = None) -> Iterator[str]:
    """Give the address of an API that gives these answers, the last one to all that follows; none: never.

    What it has answered is added to `heard`.
    """
    left = list(answers)
    with socket.create_server(("127.0.0.1", 0)) as server:
        loop = asyncio.get_running_loop()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            asked = head + await reader.readexactly(int(length[1]) if length else 0)
            answer = left.pop(0) if len(left) > 1 else left[0]
            if answer is not None:
                if heard is not None and b"/artifacts/ " in head:
                    heard.append(asked)
                writer.write(answer)
                writer.close()

        serving = loop.create_task(asyncio.start_server(serve, sock=server))
        yield f"http://127.0.0.1:{server.getsockname()[1]}/api"
        serving.result().close()


REFUSES = b"HTTP/1.1 422 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
TAKES = b'HTTP/1.1 201 Yes\r\nContent-Length: 11\r\nConnection: close\r\n\r\n{"id": "1"}'


def prefect_at(api: str) -> dict[Any, Any]:
    return {PREFECT_API_URL: api, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}  # else it asks for a token first


@pytest.mark.parametrize(("answer", "words"), [(None, "does not answer"), (REFUSES, "422")])
async def test_a_prefect_that_hangs_or_refuses_is_said_once_and_the_run_goes_on(
    answer: bytes | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_SECONDS", "PAUSE_SECONDS", "SHARE_SECONDS", "AWAY_SECONDS", "AGAIN_SECONDS"):
        monkeypatch.setattr(artifacts, name, 0.1)
    if answer is None:
        monkeypatch.setattr(artifacts, "POST_SECONDS", 0.1)
        monkeypatch.setattr(artifacts, "END_SECONDS", 1)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(logging.getLogger("sessionflow.run_log"), "handlers", [handler])
    with somebody_who(answer) as api, temporary_settings(prefect_at(api)):
        async with board_of("00000000-0000-0000-0000-000000000000") as board:
            board.show(lambda: Progress(0.5, "half"))
            await asyncio.sleep(1)
            board.finish(lambda: Progress(1.0, "done"), lambda: PAGE)
    assert len(said) == 1
    assert words in said[0]
    assert said[0].endswith("The run goes on.")


async def test_a_prefect_that_never_answers_holds_up_the_end_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "END_SECONDS", 0.2)
    with somebody_who(None) as api, temporary_settings(prefect_at(api)):
        async with asyncio.timeout(artifacts.POST_SECONDS - 1), board_of("run") as board:
            board.finish(lambda: Progress(1.0, "done"), lambda: PAGE)


async def test_what_prefect_does_not_take_of_an_inner_run_is_offered_until_the_outermost_one_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("POST_SECONDS", "AWAY_SECONDS", "AGAIN_SECONDS", "INNER_SECONDS"):
        monkeypatch.setattr(artifacts, name, 0.5)
    heard: list[bytes] = []
    with somebody_who(None, None, None, TAKES, heard=heard) as api, temporary_settings(prefect_at(api)):
        async with board_of("outer"):
            async with board_of("inner") as board:
                board.finish(lambda: Progress(1.0, "done"), lambda: PAGE)
            assert heard == []
    page, progress = (json.loads(asked[asked.index(b"{") :]) for asked in heard)
    assert [page["flow_run_id"], progress["flow_run_id"]] == ["inner", "inner"]
    assert [page["key"], progress["data"]] == ["a-key", 100]


async def test_words_that_cannot_be_made_fail_no_run() -> None:
    heard: list[bytes] = []
    with somebody_who(TAKES, heard=heard) as api, temporary_settings(prefect_at(api)):
        async with board_of("run") as board:
            board.finish(lambda: Progress(1 / 0, ""), lambda: PAGE)
    assert len(heard) == 1  # the page
