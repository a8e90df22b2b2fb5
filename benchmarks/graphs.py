"""Run one graph of trivial jobs as flows: `python -m benchmarks.graphs GRAPH SERVER [null|COMMAND]`.

A is one pipeline of 1, 3 and 1 jobs, B twenty of them at once, C a hundred pipelines of one job, W twenty of fifty.
With `null`, every call to the server side is answered at once: what is left is Prefect's own share, and ours in this
process. Printed are, as JSON, after how many seconds Slurm knew every job and all were followed, and then how it ended.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from flows import pipeline_flow as flows_of_ours
from flows.pipeline import pipeline, pipeline_flow
from tasks import client
from tasks.compute_server import ComputeServer
from tasks.jobs import OBSERVER
from tasks.reports import PipelineReport
from trackers.graph import Graph, Job, Stage
from trackers.names import ProcessingPipelines

PROJECT = "Benchmark"
SESSION = "2025-08-26-18-30-15-123456"
SHAPES = {  # pipelines, jobs of their stages
    "A": (1, (1, 3, 1)),
    "B": (20, (1, 3, 1)),
    "C": (100, (1,)),
    "W": (20, (50,)),
}


def stages(shape: tuple[int, ...], command: tuple[str, ...]) -> tuple[Stage, ...]:
    """Return a pipeline's stages, all of whose jobs run the same command."""
    return tuple(
        Stage(f"stage-{n}", tuple(Job(f"job-{n}-{m}", command) for m in range(count))) for n, count in enumerate(shape)
    )


@pipeline_flow(name="benchmark", run_name="benchmark {animal}")
async def benchmark(animal: str, shape: list[int], command: list[str], server: ComputeServer) -> PipelineReport:
    """Run one pipeline of trivial jobs; it is the checksum pipeline by name."""
    async with pipeline(
        ProcessingPipelines.CHECKSUM,
        *(server, PROJECT, animal, SESSION),
        settings={"regenerate": False},
        reprocess=True,
        keep_job_logs=False,
        requested_by="benchmark",
    ) as run:
        return await run(*stages(tuple(shape), tuple(command)))


class NullChannel:
    """Answers every request at once, as if all jobs had succeeded already."""

    why = "it was closed"

    def __init__(self, answer: Callable[[str, dict[str, Any]], Any]) -> None:
        self._answer = answer
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def send(self, line: bytes) -> None:
        """Answer a request."""
        request = json.loads(line)
        result = self._answer(request["call"], request["arguments"])
        self._answers.put_nowait(json.dumps({"id": request["id"], "result": result}).encode() + b"\n")

    async def receive(self) -> bytes:
        """Return the next answer."""
        return await self._answers.get()

    async def close(self) -> None:
        """End the conversation."""
        self._answers.put_nowait(b"")


def answer(call: str, arguments: dict[str, Any]) -> Any:
    """Return the server side's answer to a request, as if all jobs had succeeded already."""
    target = f"{arguments.get('project')}/{arguments.get('animal')}/{arguments.get('session')}"
    match call:
        case "hello":
            return {"version": client.metadata.version("sessionflow"), "protocol": 1}
        case "describe":
            nothing = {"status": "", "ended": "", "problem": ""}
            facts = {"target": target, "session_type": "run training", "complete": True, "archived": False}
            return {**facts, "prepared": False, "pipelines": {p.name: nothing for p in ProcessingPipelines}}
        case "lock_acquire":
            return {**arguments["holder"], "incarnation": "null"}
        case "submit" | "watch" | "finish":
            graph = Graph.from_json(arguments["graph"]) if call == "submit" else _graphs[target]
            _graphs[target] = graph
            return _view(target, arguments["pipeline"], graph, "open" if call != "finish" else "succeeded")
        case _:
            return None


_graphs: dict[str, Graph] = {}


def _view(target: str, pipeline: str, graph: Graph, status: str) -> dict[str, Any]:
    ended = {"state": "COMPLETED", "over": True, "blocked": False, "ended": "2025-01-01", "attempt": 1, "id": "1"}
    empty = {"reason": "", "earlier": [], "tail": [], "progress": "", "errors": "", "output": "", "exit_code": 0}
    usage = {"node": "", "queued_seconds": None, "ran_seconds": None, "cpu_seconds": None, "memory_gb": None}
    jobs = [
        {"stage": s.name, "name": j.name, "resources": asdict(j.resources), "usage": usage, **ended, **empty}
        for s in graph.stages
        for j in s.jobs
    ]
    return {
        "target": target,
        "pipeline": pipeline,
        "name": f"{pipeline.lower()}/0001",
        "number": 1,
        "status": status,
        "jobs": jobs,
    }


async def _null_channel(_server: Any) -> NullChannel:
    return NullChannel(answer)


async def _no_manifests(_outermost: Any) -> tuple[PipelineReport, ...]:
    return ()


async def run(graph: str, server: ComputeServer, command: list[str]) -> dict[str, Any]:
    """Run a graph's pipelines at once; return the makespan and what became of them."""
    count, shape = SHAPES[graph]
    began = time.perf_counter()
    followed: set[str] = set()

    def look(view: dict[str, Any]) -> None:
        if len(followed) < count and all(job["id"] for job in view["jobs"]):
            followed.add(view["target"])
            if len(followed) == count:
                print(json.dumps({"followed": time.perf_counter() - began}), flush=True)

    OBSERVER.set(look)
    flows = [benchmark(str(n), list(shape), command, server) for n in range(count)]
    reports = await asyncio.gather(*flows, return_exceptions=True)
    seconds = time.perf_counter() - began
    good = sum(isinstance(report, PipelineReport) and report.succeeded for report in reports)
    bad = [str(report) for report in reports if not (isinstance(report, PipelineReport) and report.succeeded)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "succeeded": good, "of": count, "megabytes": memory, "bad": bad[:3]}


def main() -> None:
    """Carry out the command line."""
    graph, path, *words = sys.argv[1:]
    flows_of_ours._regenerate = _no_manifests  # the floor makes no manifest either
    if "null" in words:
        client.open_channel = _null_channel  # type: ignore[assignment]
    with open(path) as file:  # noqa: PTH123
        server = ComputeServer(**json.load(file))
    command = [word for word in words if word != "null"] or ["true"]
    print(json.dumps(asyncio.run(run(graph, server, command))))


if __name__ == "__main__":
    main()
