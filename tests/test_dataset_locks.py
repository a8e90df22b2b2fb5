"""A dataset's lock: it and all its sessions or nothing, nobody waits for anybody, and nothing outlives its reason."""

from __future__ import annotations

import asyncio
import json
import random
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from tasks.client import Client, connected
from tasks.jobs import end_jobs
from tasks.lease import Lease, give_back, take_lock
from tasks.servers import Server
from tasks.sweep import swept
from tests.conftest import SESSION, make_session
from tests.sweeping import dead_process, sweeper
from trackers.errors import HostKeyError, SessionLockedError, StaleLeaseError
from trackers.graph import Graph, Job, Stage
from trackers.lock import Holder
from trackers.manager import generate_manager_id
from trackers.processes import ProcessIdentity

NAMES = [SESSION, "2025-08-27-18-30-15-123456", "2025-08-28-18-30-15-123456"]
ANIMAL = {"project": "Project", "dataset": "learning", "animal": "305"}
SESSIONS = [{"project": "Project", "animal": "305", "session": name} for name in NAMES]
WISH: dict[str, Any] = {"MULTIDAY": {"sessions": NAMES}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        make_session(tmp_path / "storage", session=name, kind="mesoscope experiment")
    (tmp_path / "working").mkdir()
    return tmp_path


async def ended(lease: Lease, number: int) -> None:
    """Wait until the only job of a submission has ended."""
    for _ in range(400):
        if (await lease.ask("watch", pipeline="MULTIDAY", number=number))["jobs"][0]["ended"]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError


def server_of(root: Path) -> Server:
    return Server(
        storage_root=str(root / "storage"), working_root=str(root / "working"), datasets_root=str(root / "datasets")
    )


def who(process: ProcessIdentity | None = None, **details: Any) -> Holder:
    process = process or ProcessIdentity.of_this_process()
    return Holder(generate_manager_id(), process=process, requested_by="ada", pipeline="multi-day", **details)


async def take(
    client: Client,
    holder: Holder,
    target: dict[str, str] = ANIMAL,
    sessions: Sequence[dict[str, str]] = SESSIONS,
    wish: dict[str, Any] = WISH,
) -> Lease:
    lease: Lease = await take_lock.fn.__wrapped__(client, target, wish, holder, sessions)
    return lease


async def submit(lease: Lease, command: str = "sleep 60", **settings: Any) -> dict[str, Any]:
    graph = Graph((Stage("discover", (Job("discover", ("bash", "-c", command)),)),))
    request = {"pipeline": "MULTIDAY", "settings": settings or WISH["MULTIDAY"], "graph": graph.to_json()}
    view: dict[str, Any] = await lease.ask("submit", **request, manager_id=lease.manager_id)
    while view["jobs"][0]["state"] in ("PLANNED", "PENDING"):
        await asyncio.sleep(0.05)
        view = await lease.ask("watch", pipeline="MULTIDAY", number=view["number"])
    return view


async def holders(client: Client) -> list[int]:
    """Return who holds the dataset and each session; -1 is nobody."""
    return [(await client.ask("lock_show", **target))["manager_id"] for target in (ANIMAL, *SESSIONS)]


def run(root: Path, work: Callable[[Client], Any]) -> None:
    async def connect() -> None:
        async with connected(server_of(root)) as client:
            await work(client)

    asyncio.run(connect())


def test_a_dataset_and_its_sessions_are_taken_and_given_back_together(root: Path) -> None:
    async def work(client: Client) -> None:
        lease = await take(client, who(), sessions=[SESSIONS[2], SESSIONS[0], SESSIONS[1]])
        assert await holders(client) == [lease.manager_id] * 4
        assert list(lease.sessions) == SESSIONS
        found = await client.ask("lock_show", **SESSIONS[1])
        assert "running multi-day of Project/learning/305" in found["description"]
        assert (root / "datasets/Project/learning/305/dataset_lock.yaml").exists()
        await give_back(lease)
        assert await holders(client) == [-1] * 4

    run(root, work)


@pytest.mark.parametrize("why", ["its jobs could not be ended", "presented another host key"])
def test_a_lock_that_stays_is_said_with_what_to_do(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    async def changed(*_words: Any, **_arguments: Any) -> None:
        raise HostKeyError(why)

    async def work(client: Client) -> None:
        lease = await take(client, who())
        with monkeypatch.context() as patch:
            if "key" in why:
                patch.setattr(client, "ask_within", changed)
            else:
                lease.abandon = why
            await give_back(lease)
        assert await holders(client) == [lease.manager_id] * 4

    run(root, work)
    assert "The lock of Project/learning/305 and of its sessions stays" in caplog.text
    assert why in caplog.text
    assert "start the same again" in caplog.text


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_where_one_session_is_held_none_is_taken_and_the_refusal_names_it_and_who(root: Path, taken: int) -> None:
    async def work(client: Client) -> None:
        other = who(flow_run_name="behavior of the day", flow_run_id="8d7f")
        await client.ask("lock_acquire", **SESSIONS[taken], holder=asdict(other), wish={})
        with pytest.raises(SessionLockedError) as refusal:
            await take(client, who())
        for words in (NAMES[taken], str(other.manager_id), "behavior of the day", "lock release"):
            assert words in str(refusal.value)
        assert [holder for holder in await holders(client) if holder != -1] == [other.manager_id]

    run(root, work)


def test_a_session_that_is_held_for_a_dataset_is_refused_to_others(root: Path) -> None:
    async def work(client: Client) -> None:
        lease = await take(client, who())
        with pytest.raises(SessionLockedError, match="of Project/learning/305") as refusal:
            await take_lock.fn.__wrapped__(client, SESSIONS[0], {"BEHAVIOR": {}}, who())
        assert str(lease.manager_id) in str(refusal.value)
        with pytest.raises(SessionLockedError, match=NAMES[0]):
            await take(client, who(), {**ANIMAL, "dataset": "another"})
        assert (await client.ask("lock_show", **{**ANIMAL, "dataset": "another"}))["manager_id"] == -1
        await give_back(lease)

    run(root, work)


def test_flows_with_overlapping_sessions_end_without_waiting_for_each_other(root: Path) -> None:
    """Many managers, each with a connection of its own, want random sets of sessions: all come to an end."""
    finished: list[int] = []

    async def manager(number: int) -> None:
        draw = random.Random(number)
        client = Client(server_of(root))
        for _ in range(6):
            sessions = draw.sample(SESSIONS, 2)
            holder = who()
            try:
                lease = await take(client, holder, {**ANIMAL, "dataset": f"d{number}"}, sessions)
            except SessionLockedError:
                await asyncio.sleep(draw.random() / 50)
                continue
            for session in sessions:
                assert (await client.ask("lock_show", **session))["manager_id"] == lease.manager_id
            await give_back(lease)
            finished.append(number)
        await client.close()

    async def work(client: Client) -> None:
        await asyncio.wait_for(asyncio.gather(*map(manager, range(4))), 60)
        assert [(await client.ask("lock_show", **session))["manager_id"] for session in SESSIONS] == [-1] * 3

    run(root, work)
    assert finished


def test_the_locks_of_a_dead_flow_pass_to_the_next_one_together(root: Path) -> None:
    async def work(client: Client) -> None:
        await take(client, who(dead_process()))
        lease = await take(client, who())
        assert await holders(client) == [lease.manager_id] * 4
        await give_back(lease)
        assert await holders(client) == [-1] * 4

    run(root, work)


def test_a_flow_that_died_while_it_took_its_locks_is_taken_over(root: Path) -> None:
    async def work(client: Client) -> None:
        dead = who(dead_process())
        await take(client, dead, sessions=SESSIONS[:1])  # it came no further
        lease = await take(client, who())
        assert await holders(client) == [lease.manager_id] * 4

    run(root, work)


def test_the_jobs_of_a_dead_flow_admit_only_their_continuation_on_every_session(root: Path) -> None:
    async def work(client: Client) -> None:
        dead = await take(client, who(dead_process()))
        await submit(dead)
        with pytest.raises(SessionLockedError, match="other settings"):
            await take(client, who(), wish={"MULTIDAY": {"sessions": NAMES[:2]}})
        with pytest.raises(SessionLockedError, match=r"held for the dataset Project/learning/305.*discover") as refusal:
            await take_lock.fn.__wrapped__(client, SESSIONS[1], {"BEHAVIOR": {}}, who())
        assert "sessionflow cancel Project/learning/305" in str(refusal.value)
        with pytest.raises(SessionLockedError, match="still run or wait"):
            await client.ask("lock_force", **SESSIONS[1])
        lease = await take(client, who())
        assert lease.manager_id == dead.manager_id  # the one that its jobs carry
        assert await holders(client) == [dead.manager_id] * 4
        with pytest.raises(StaleLeaseError):
            await dead.ask("lock_update", changes={"abandoned": "woke up"})
        assert await end_jobs(lease)
        await give_back(lease)
        assert await holders(client) == [-1] * 4

    run(root, work)


def test_where_not_all_sessions_can_be_taken_again_the_jobs_that_run_keep_theirs(root: Path) -> None:
    async def work(client: Client) -> None:
        dead = await take(client, who(dead_process()))
        await submit(dead)
        await client.ask("lock_force", **SESSIONS[1], abandon=True)
        other = who()
        await client.ask("lock_acquire", **SESSIONS[1], holder=asdict(other), wish={})
        with pytest.raises(SessionLockedError, match=NAMES[1]):
            await take(client, who())
        assert await holders(client) == [dead.manager_id, dead.manager_id, other.manager_id, dead.manager_id]
        found = await client.ask("lock_show", **ANIMAL)
        assert "not all of its sessions could be locked again" in found["description"]
        await client.ask("cancel_all", **ANIMAL)

    run(root, work)


def test_an_abandoned_dataset_is_abandoned_with_all_its_sessions(root: Path) -> None:
    async def work(client: Client) -> None:
        lease = await take(client, who())
        lease.abandon = "its jobs could not be ended"
        await give_back(lease)
        for target in (ANIMAL, *SESSIONS):
            assert "abandoned: its jobs could not be ended" in (await client.ask("lock_show", **target))["description"]
        again = await take(client, who())
        await give_back(again)
        assert await holders(client) == [-1] * 4

    run(root, work)


def test_the_sweeper_frees_a_dead_dataset_and_its_sessions_when_its_jobs_have_ended(root: Path) -> None:
    async def work(client: Client) -> None:
        dead = await take(client, who(dead_process()))
        view = await submit(dead, f"until [ -e {root}/go ]; do sleep 0.05; done")
        report = await swept(client, (), sweeper)
        assert [finding.outcome for finding in report.findings] == ["left"] * 4
        assert all("still run or wait: discover" in finding.words for finding in report.findings)
        (root / "go").touch()
        await ended(dead, view["number"])
        report = await swept(client, (), sweeper)
        assert [finding.outcome for finding in report.findings] == ["repaired"] * 4
        assert report.findings[0].target == "Project/learning/305"
        assert await holders(client) == [-1] * 4
        assert (await client.ask("tracker_show", **ANIMAL, pipeline="MULTIDAY"))["status"] == "succeeded"
        assert (await swept(client, (), sweeper)).findings == ()

    run(root, work)


def test_a_living_dataset_is_left_alone_by_the_sweeper(root: Path) -> None:
    async def work(client: Client) -> None:
        lease = await take(client, who())
        assert (await swept(client, (), sweeper)).findings == ()
        assert await holders(client) == [lease.manager_id] * 4

    run(root, work)


def test_a_session_cannot_be_taken_for_a_dataset_that_one_does_not_hold(root: Path) -> None:
    async def work(client: Client) -> None:
        holder = replace(who(), datasets=str(root), target="Project/learning/305")
        with pytest.raises(StaleLeaseError):
            await client.ask("lock_acquire", **SESSIONS[0], holder=asdict(holder), wish={}, held_for=ANIMAL)
        assert (await client.ask("lock_show", **SESSIONS[0]))["manager_id"] == -1

    run(root, work)


def test_result_and_state_of_a_dataset_lie_beside_it(root: Path) -> None:
    async def work(client: Client) -> None:
        lease = await take(client, who())
        view = await submit(lease, "true")
        await ended(lease, view["number"])
        await lease.ask("finish", pipeline="MULTIDAY", number=view["number"], keep_logs=True)
        await give_back(lease)

    run(root, work)
    folder = root / "datasets/Project/learning/305"
    record = json.loads((folder / "results/MULTIDAY.json").read_bytes())
    assert (record["target"], record["settings"]) == ("Project/learning/305", WISH["MULTIDAY"])
    assert (folder / "multiday_processing_tracker.yaml").exists()


def command(root: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run the command on the lab's volumes; return its exit code and all that it printed."""
    roots = ("--storage", str(root / "storage"), "--working", str(root / "working"))
    with pytest.raises(SystemExit) as ended:
        main([*words, *roots, "--datasets", str(root / "datasets")])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out + printed.err


def test_people_see_cancel_and_free_a_dataset_by_its_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def leave(client: Client) -> None:
        await submit(await take(client, who()))

    run(root, leave)
    name, session = "Project/learning/305", f"Project/305/{NAMES[1]}"
    shown = command(root, capsys, "lock", "show", name)[1]
    assert f"{name} is locked by manager" in shown
    assert "multiday/0001 discover" in shown
    assert f"{name}: dataset, multiday" in command(root, capsys, "status", "Project")[1]
    assert "multiday/0001 open" in command(root, capsys, "status", "--why", name)[1]
    code, words = command(root, capsys, "cancel", session, "--yes")
    assert code == 1
    assert f"held for the dataset {name}, whose jobs are ended with: sessionflow cancel {name}" in words
    code, words = command(root, capsys, "lock", "release", name, "--yes")
    assert (code, "jobs that still run or wait" in words) == (3, True)
    words = command(root, capsys, "cancel", name, "--yes")[1]
    assert "Ended: multiday/0001" in words
    assert "If that manager is gone: sessionflow sweep Project --repair" in words
    for target in (name, f"Project/305/{NAMES[0]}", session, f"Project/305/{NAMES[2]}"):
        assert "Released" in command(root, capsys, "lock", "release", target, "--yes")[1]
    assert command(root, capsys, "lock", "show", "Project/learnign/305")[0] == 2


def test_a_corrupt_tracker_of_a_dataset_is_reset_by_the_command_that_the_error_gives(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = root / "datasets" / "Project" / "learning" / "305" / "multiday_processing_tracker.yaml"
    tracker.parent.mkdir(parents=True)
    tracker.write_text("nonsense")
    shown = command(root, capsys, "tracker", "show", "Project/learning/305", "multiday")[1]
    words = shlex.split(shown[shown.index("sessionflow tracker reset") :].splitlines()[0])[1:5]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--yes"])
    assert not ended.value.code
    assert "has not run" in command(root, capsys, "tracker", "show", "Project/learning/305", "multiday")[1]
