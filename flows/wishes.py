"""What the pipelines' jobs ask for, read from their modules' text: importing them would take Prefect's two seconds.

Only what stands there as plain numbers is seen; a job's name that is put together at run time counts as `*`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.servers import Server
from trackers.graph import Graph, Job, Resources, Stage

NUMBERS = ("cpus", "memory_gb", "minutes", "gpus", "maximum_memory_gb", "maximum_minutes")


@dataclass(frozen=True)
class Wish:
    """What the jobs of one kind ask for.

    Attributes:
        pipeline: the module's name.
        job: its name, with 0 for what is filled in at run time; empty where it is not written down.
    """

    pipeline: str
    job: str
    resources: Resources

    @property
    def label(self) -> str:
        """How people call it."""
        return f"{self.pipeline}/{self.job}" if self.job and self.job != self.pipeline else self.pipeline


def wishes(server: Server) -> list[dict[str, Any]]:
    """Return what the jobs ask for on this server, as its own side's `check` takes it."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for wish in wishes_in(path.stem, path.read_text(encoding="utf-8")):
            for each in (wish, *_named_by_overrides(server, wish)):
                asked = _overridden(server, each).resources
                found.append({"label": each.label, **{name: getattr(asked, name) for name in NUMBERS}})
    return found


def wishes_in(pipeline: str, text: str) -> list[Wish]:
    """Return what a module's jobs ask for."""
    tree = ast.parse(text)
    named = {
        node.targets[0].id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    found = [wish for call in _calls(tree, "Job") if (wish := _of_job(pipeline, call, named))]
    return list(dict.fromkeys(found))


def _of_job(pipeline: str, call: ast.Call, named: dict[str, ast.expr]) -> Wish | None:
    """Read `Job(name, command, resources, …)`, where resources may be a name that is assigned before."""
    parts = [*call.args, *(keyword.value for keyword in call.keywords)]
    for part in parts:
        value = named.get(part.id, part) if isinstance(part, ast.Name) else part
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Resources":
            numbers = {k.arg: k.value.value for k in value.keywords if k.arg and isinstance(k.value, ast.Constant)}
            known: dict[str, Any] = {name: number for name, number in numbers.items() if name in NUMBERS}
            return Wish(pipeline, _name(call.args[0]) if call.args else "", Resources(**known))
    return None


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else ""


def _calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node


def _named_by_overrides(server: Server, wish: Wish) -> list[Wish]:
    """Return the jobs whose names only the server's description gives away: `behavior/encoder: …`."""
    jobs = [pattern.partition("/")[2] for pattern in server.resources if pattern.startswith(f"{wish.pipeline}/")]
    return [] if wish.job else [replace(wish, job=job) for job in jobs if job.replace("-", "").isalnum()]


def _overridden(server: Server, wish: Wish) -> Wish:
    job = Job(wish.job or wish.pipeline.replace("_", "-"), ("true",), wish.resources)
    (stage,) = server.with_resources(wish.pipeline, Graph((Stage("wish", (job,)),))).stages
    return replace(wish, resources=stage.jobs[0].resources)
