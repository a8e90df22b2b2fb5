"""What a lab's ordinary day looks like: long jobs, a server far away, submit limits, late files, a manager killed."""

from __future__ import annotations

import re
import time
from pathlib import Path

from benchmarks.graphs import SHAPES
from benchmarks.runs import Bench, bench, requests_of
from benchmarks.slow_line import slow_line
from tests.managers import jobs_in_slurm
from tests.wrappers import late

SUBMIT_LIMIT = 20
ROUND_TRIP_SECONDS = 0.1
WAITING_SECONDS = 60.0  # after the last job is followed, before the manager's memory is read
COLUMNS = ("far", "floor", "measured", "goal")
Row = tuple[str, ...]


def rows(seconds: float) -> list[Row]:
    """Measure, with jobs of so many seconds whose records are seen as late, and return the table's rows."""
    with bench(accounting=True) as on:
        return [_adopted(on), _memory(on), *_far(on, seconds)]


def _adopted(on: Bench) -> Row:
    """Kill the manager of B while its jobs run, and have another one follow them to their end.

    Raises:
        RuntimeError: a job was submitted twice, or a pipeline did not succeed.
    """
    go = on.folder / "go"
    command = ("sh", "-c", f"until [ -e '{go}' ]; do sleep 1; done")
    first = on.start("B", *command)
    first.followed()
    while on.cluster.command("squeue", "-h", "-t", "running").count("\n") < SHAPES["B"][0]:
        time.sleep(0.1)
    jobs, asked = _jobs(on), requests_of(on.cluster)
    first.kill()
    again = on.start("B", *command, root=first.root)
    seconds = again.followed()
    asked = requests_of(on.cluster) - asked
    go.touch()
    told = again.report()
    if _jobs(on) != jobs or asked["REQUEST_SUBMIT_BATCH_JOB"] or told["succeeded"] != told["of"]:
        raise RuntimeError(f"{len(jobs)} jobs became {len(_jobs(on))}; {asked}; {told}")
    return f"B, kill -9 → a rerun follows all {len(jobs)} jobs", "", f"{seconds:.1f} s", "≤ 5 s"


def _jobs(on: Bench) -> list[tuple[str, str]]:
    return [(number, key) for number, key, _ in jobs_in_slurm(on.cluster)]


def _memory(on: Bench) -> Row:
    """Let twenty pipelines of fifty jobs wait, none of which can start."""
    for node in on.cluster.nodes:
        on.cluster.set_node(node, "DRAIN")
    run = on.start("W")
    run.followed()
    time.sleep(WAITING_SECONDS)
    status = Path(f"/proc/{run.process.pid}/status").read_text()
    run.kill()
    on.cluster.command("scancel", "--user=root")
    on.cluster.tidy()
    most = int(re.findall(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[0]) * 1024 / 1e6
    return "1,000 jobs wait: most memory of the manager", "", f"{most:.0f} MB", "≤ 250 MB"


def _far(on: Bench, seconds: float) -> list[Row]:
    """Run A and B over a slow line and under a submit limit, then once more with records that are seen late."""
    on.cluster.command("sacctmgr", "-i", "modify", "user", "root", "set", f"MaxSubmitJobs={SUBMIT_LIMIT}")
    time.sleep(2)  # until the controller has heard of it
    sshd = on.cluster.sshd
    found: list[Row] = []
    with slow_line(sshd.port, ROUND_TRIP_SECONDS / 2) as port:
        known_hosts = on.folder / "known_hosts"
        known_hosts.write_text(sshd.known_hosts.replace(f":{sshd.port} ", f":{port} "))
        way: dict[str, object] = {"port": port, "known_hosts_file": str(known_hosts)}
        floors = {graph: on.floor(graph, f"sleep {seconds:g}") for graph in "AB"}
        for tardy in (False, True):
            if tardy:
                on.cluster.wrap("mv", late(seconds))  # with which a job script puts its records into place
            for graph, floor in floors.items():
                told = on.flows(graph, "sleep", f"{seconds:g}", **way)
                what = f"{graph}, jobs of {seconds:g} s, {ROUND_TRIP_SECONDS * 1000:g} ms away, at most {SUBMIT_LIMIT}"
                what += f"; records seen {seconds:g} s late" if tardy else ""
                if lost := told["of"] - told["succeeded"]:
                    what += f": {lost} pipelines lost"
                ours = f"{told['seconds']:.1f} s, {told['seconds'] / floor:.2f} ×"
                found.append((what, f"{floor:.1f} s", ours, "≤ 1.05 ×"))
    return found
