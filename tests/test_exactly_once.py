"""Each job runs once, whatever is killed between the intent on disk and the answer to the manager."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.jobs import Submitted
from tasks.lease import Lease
from tests.cluster import Cluster
from tests.conftest import make_session
from tests.daemon import wait_until
from tests.managers import Manager, jobs_in_slurm, program, server_of
from tests.slurm_side import bash
from trackers.graph import Job

AT_ONCE = 5
CUTS = ["write submission.json 1", "sbatch 1", "empty scheduler_id 1", "write submission.json 2", "answer submit 1"]
KEYS = ["a", "b-0", "b-1", "c"]


def stages(trace: Path) -> list[list[Job]]:
    return [
        [bash("a", f"echo a >> {trace}")],
        [bash(f"b-{n}", f"echo b-{n} >> {trace}") for n in range(2)],
        [bash("c", f"echo c >> {trace}")],
    ]


class Case:
    """One session whose first server side dies at one step."""

    def __init__(self, cluster: Cluster, root: Path, number: int, cut: str) -> None:
        self.cluster, self.cut, self.animal = cluster, cut, str(500 + number)
        make_session(root / "storage", animal=self.animal)
        (root / "working").mkdir(exist_ok=True)
        self.folder = root / self.animal
        self.folder.mkdir()
        self.trace, self.steps, cut_file = (self.folder / name for name in ("trace", "steps", "cut"))
        cut_file.write_text(cut)
        self.done = self.folder / "cut.done"
        self.files = {"CUT_FILE": str(cut_file), "CUT_STEPS": str(self.steps)}
        self.server = server_of(cluster, root, program(self.folder / "python", "tests.cut", **self.files))

    async def run(self) -> None:
        """One manager, whose client starts another server side by itself."""
        manager = Manager(self.server, self.animal)
        view = await manager.run(*stages(self.trace))
        await self.check(manager, view)

    async def run_twice(self) -> None:
        """Another manager, as soon as the first one's server side has died."""
        first = Manager(self.server, self.animal)
        running = asyncio.create_task(first.run(*stages(self.trace)))
        await asyncio.to_thread(wait_until, lambda: self.done.exists() or running.done(), 60.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await first.close()
        manager = Manager(self.server, self.animal)
        await manager.lock()
        if await manager.tracker() == "succeeded":  # as a flow does: nothing is left to do
            await manager.lease.ask("lock_release", manager_id=manager.lease.manager_id)
            view = json.loads(next(self.root.rglob("submission.json")).read_text())
        else:
            await manager.submit(*stages(self.trace))
            view = await manager.end()
        await self.check(manager, view)

    @property
    def root(self) -> Path:
        return self.folder.parent / "storage" / "Project" / self.animal

    async def check(self, manager: Manager, view: dict[str, Any]) -> None:
        words = f"cut at {self.cut!r}"
        assert view["status"] == "succeeded", (words, view)
        found = jobs_in_slurm(self.cluster, view["id"])
        assert [key.removeprefix(f"sessionflow-{view['id']}-") for _, key, _ in found] == [f"{k}-1" for k in KEYS], (
            words
        )
        assert {state for _, _, state in found} == {"COMPLETED"}, words
        traced = self.trace.read_text().split()
        assert sorted(traced) == KEYS, words
        assert (traced[0], traced[-1]) == ("a", "c"), words
        assert (await manager.tracker(), await manager.locked()) == ("succeeded", False), words
        assert len(list(self.root.rglob("submission.json"))) == 1, words
        await manager.close()


async def all_cases(cases: list[Case], how: str) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> None:
        async with gate, asyncio.timeout(100):
            await getattr(case, how)()

    outcomes = await asyncio.gather(*(one(case) for case in cases), return_exceptions=True)
    wrong = {case.cut: repr(outcome) for case, outcome in zip(cases, outcomes, strict=True) if outcome is not None}
    assert not wrong


def every_step(cluster: Cluster, root: Path) -> list[str]:
    """Return the numbers of all steps of a run that is not cut."""
    case = Case(cluster, root, 0, "none")
    asyncio.run(case.run())
    return [str(number + 1) for number in range(len(case.steps.read_text().splitlines()))]


def test_a_server_side_that_dies_while_it_hands_over_is_followed_by_one_that_goes_on(
    cluster: Cluster, tmp_path: Path
) -> None:
    cases = [Case(cluster, tmp_path, n, cut) for n, cut in enumerate(CUTS)]
    asyncio.run(all_cases(cases, "run"))
    assert all(case.done.exists() for case in cases)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["run", "run_twice"])
def test_each_job_runs_once_wherever_the_server_side_is_cut(cluster: Cluster, tmp_path: Path, how: str) -> None:
    cuts = every_step(cluster, tmp_path)
    assert len(cuts) > 30
    cases = [Case(cluster, tmp_path, 1 + n, cut) for n, cut in enumerate(cuts)]
    asyncio.run(all_cases(cases, how))
    assert sum(case.done.exists() for case in cases) > 0.8 * len(cases)


LANDS_LATE = """touch {flag}; export REAL SCRIPT=$(cat)
setsid -f bash -c 'for word; do case $word in --chdir=*) folder=${{word#--chdir=}} ;; esac; done
until [ -s "$folder/scheduler_id" ]; do sleep 0.05; done
sleep {seconds}; printf "%s\\n" "$SCRIPT" | "$REAL" "$@"' late "$@" </dev/null >/dev/null 2>&1
sleep 1000"""


def lands_late(cluster: Cluster, flag: Path, seconds: float) -> None:
    """Have the next sbatch hang, and its job land some time after a second one, whatever becomes of the caller."""
    cluster.wrap("sbatch", LANDS_LATE.format(flag=flag, seconds=seconds), times=1)


def check_copies(cluster: Cluster, view: dict[str, Any], trace: Path) -> None:
    """Of two copies of the first job one ran; of the others there is one each."""
    assert wait_until(lambda: len(jobs_in_slurm(cluster, view["id"])) == 5, 20.0)
    ended = {"COMPLETED", "CANCELLED", "FAILED"}
    assert wait_until(lambda: {state for _, _, state in jobs_in_slurm(cluster, view["id"])} <= ended, 20.0)
    found = Counter((key.rsplit("-", 2)[-2], state) for _, key, state in jobs_in_slurm(cluster, view["id"]))
    assert [found.pop((name, "COMPLETED")) for name in ("a", "0", "1", "c")] == [1, 1, 1, 1]
    assert list(found) in ([("a", "CANCELLED")], [("a", "FAILED")])
    assert sorted(trace.read_text().split()) == KEYS


@pytest.mark.parametrize(
    ("seconds", "runs"), [(0.0, "sleep 3"), (0.5, "sleep 3"), pytest.param(12.0, "true", marks=pytest.mark.slow)]
)
def test_an_sbatch_that_outlives_its_server_side_and_lands_late_makes_no_job_run_twice(
    cluster: Cluster, tmp_path: Path, seconds: float, runs: str
) -> None:
    case, flag = Case(cluster, tmp_path, 0, "none"), tmp_path / "hangs"
    graph = stages(case.trace)
    graph[0] = [bash("a", f"echo a >> {case.trace}; {runs}")]
    lands_late(cluster, flag, seconds)

    async def run() -> None:
        manager = Manager(case.server, case.animal)
        await manager.lock()
        pid = (await manager.client.ask("hello"))["pid"]
        submitting = asyncio.create_task(manager.submit(*graph))
        assert await asyncio.to_thread(wait_until, flag.exists, 20.0)
        os.kill(pid, signal.SIGKILL)
        await submitting
        view = await manager.end()
        assert (view["status"], await manager.tracker()) == ("succeeded", "succeeded")
        await manager.close()
        await asyncio.to_thread(check_copies, cluster, view, case.trace)

    asyncio.run(run())


def test_an_sbatch_that_was_ended_for_taking_too_long_and_lands_all_the_same_makes_no_job_run_twice(
    cluster: Cluster, tmp_path: Path
) -> None:
    case = Case(cluster, tmp_path, 0, "none")
    case.server = server_of(
        cluster, tmp_path, program(case.folder / "python", "tests.cut", CUT_SUBMIT_SECONDS="1", **case.files)
    )
    lands_late(cluster, tmp_path / "hangs", 0.0)

    async def run() -> None:
        manager = Manager(case.server, case.animal)
        await manager.lock()
        view = await manager.submit(*stages(case.trace))
        assert "sbatch gave no answer within 1 s" in view["jobs"][0]["reason"]
        view = await manager.end()
        assert (view["status"], await manager.tracker()) == ("succeeded", "succeeded")
        await manager.close()
        await asyncio.to_thread(check_copies, cluster, view, case.trace)

    asyncio.run(run())


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_two_server_sides_that_hand_over_one_submission_at_the_same_moment_submit_it_once(
    cluster: Cluster, tmp_path: Path, times: int
) -> None:
    async def run() -> None:
        first = Case(cluster, tmp_path, 0, "none")
        managers = [Manager(first.server), Manager(first.server)]
        for number in range(1, 1 + times):
            case = Case(cluster, tmp_path, number, "none")
            for manager in managers:
                manager.target["animal"] = case.animal
            await managers[0].lock()
            managers[1].lease = Lease(managers[1].client, managers[1].target, *_granted(managers[0]))
            views = await asyncio.gather(*(manager.submit(*stages(case.trace)) for manager in managers))
            view, _ = await asyncio.gather(managers[0].end(), _followed(managers[1], views[1]))
            await case.check(managers[0], view)
        await managers[1].close()

    asyncio.run(run())


def _granted(manager: Manager) -> tuple[int, str]:
    return manager.lease.manager_id, manager.lease.incarnation


async def _followed(manager: Manager, view: dict[str, Any]) -> None:
    async with Submitted(manager.lease, view) as submitted:
        while not all(job["over"] for job in submitted.view["jobs"]):
            await submitted.change()


def test_a_request_that_is_sent_again_since_its_answer_was_lost_does_not_try_a_failed_job_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    case = Case(cluster, tmp_path, 0, "answer submit 1")
    case.server = server_of(cluster, tmp_path, program(tmp_path / "cut", "tests.cut", CUT_PAUSE="2", **case.files))

    async def run() -> None:
        manager = Manager(case.server, case.animal)
        view = await manager.run([bash("a", f"echo a >> {case.trace}; exit 3")], [bash("b", "true")])
        assert (view["status"], view["jobs"][0]["attempt"], case.trace.read_text()) == ("failed", 1, "a\n")
        assert (await manager.tracker(), await manager.locked()) == ("failed", False)
        await manager.close()

    asyncio.run(run())
    assert case.done.exists()
