"""The demo: a small project in the lab's own formats, written and processed on this computer."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli_control import ask
from flows.cli_run import shown
from flows.terminal import report_table
from tasks.reports import PipelineReport
from trackers.errors import BadInputError
from trackers.names import ProcessingPipelines, ProcessingStatus
from trackers.processes import this_account

if TYPE_CHECKING:
    from tasks.compute_server import ComputeServer

NEEDS = ("polars", "numpy", "ataraxis_data_structures")


def demo(arguments: argparse.Namespace) -> int:
    """Write the example project into a folder and process all of its sessions; return the exit code.

    The damaged session's failure is expected: the code is 0 where it is the only one.
    """
    if arguments.science:
        from flows.demo_science import science_demo  # it uses what is here

        return science_demo(arguments)
    if missing := not_importable(NEEDS):
        raise BadInputError(
            f"The demo needs {', '.join(missing)}, not installed here. Nothing was done. "
            "Install the extra: pip install 'sessionflow[demo]'"
        )
    folder = Path(arguments.folder).absolute()
    started = time.monotonic()
    storage, working = folder / "storage", folder / "working"
    print(f"A small project, in {folder} …", flush=True)  # the first thing of all: Prefect takes seconds to import
    project = generated(storage)
    working.mkdir(exist_ok=True)
    print(f"Project {project['project']}: {len(project['sessions'])} sessions. Prefect starts …", flush=True)
    from tasks.compute_server import ComputeServer

    server = ComputeServer(storage_root=str(storage), working_root=str(working))
    failed_before = _failed_before(server, project)
    reports = shown(lambda: _process(server, project, failed_before))
    print(f"\n{report_table(reports)}\n")
    print(_where(folder, project["project"], time.monotonic() - started))
    return 0 if _as_expected(reports, project) else 1


def not_importable(names: Iterable[str]) -> list[str]:
    """Return those of some packages that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def generated(storage: Path, *options: str) -> dict[str, Any]:
    """Have a project of `jobs.generate` written, unless it is there; return what is in it.

    Raises:
        BadInputError: there is another one of its name.
    """
    storage.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jobs.generate", str(storage), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BadInputError(done.stderr.strip() or f"jobs.generate ended with {done.returncode}")
    project: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return project


async def _process(
    server: ComputeServer, project: dict[str, Any], failed_before: dict[str, PipelineReport]
) -> list[PipelineReport]:
    """Process session after session; the first good one is archived as well."""
    from flows.process_session import process_session

    reports: list[PipelineReport] = []
    to_archive = next(s["session"] for s in project["sessions"] if s["kind"] == "good")
    for session in project["sessions"]:
        name = session["session"]
        if name in failed_before:
            reports.append(failed_before[name])
            continue
        report = await process_session(
            *(project["project"], session["animal"], name),
            server=server,
            archive=name == to_archive,
            requested_by=this_account(),
        )
        reports += report.pipelines
    manifests = [r for r in reports if r.pipeline is ProcessingPipelines.MANIFEST]
    return [r for r in reports if r not in manifests] + manifests[-1:]


def _failed_before(server: ComputeServer, project: dict[str, Any]) -> dict[str, PipelineReport]:
    """Return, by session, the checksums that an earlier demo found wrong: damage does not heal by asking again."""
    rows = ask(server, "status", project=project["project"])
    return {
        row["session"]: PipelineReport(
            ProcessingPipelines.CHECKSUM,
            row["target"],
            ProcessingStatus.FAILED,
            ran=False,
            reason="it failed before; the demo does not try it again",
        )
        for row in rows
        if not row["problem"] and row["pipelines"]["CHECKSUM"]["status"] == "failed"
    }


def _as_expected(reports: list[PipelineReport], project: dict[str, Any]) -> bool:
    damaged = {s["session"] for s in project["sessions"] if s["kind"] == "damaged"}
    failed = {r.target.rsplit("/", maxsplit=1)[-1] for r in reports if not r.succeeded}
    return failed == damaged


def _where(folder: Path, project: str, seconds: float) -> str:
    storage, working = shlex.quote(str(folder / "storage")), shlex.quote(str(folder / "working"))
    return "\n".join(
        [
            f"Done in {seconds:.0f} s. The damaged session was to be caught, and the incomplete one to be left alone.",
            "",
            "Results",
            f"  {folder / 'working' / project}  (processed_data)",
            f"  {folder / 'storage' / project}  (archived_data, manifest)",
            *activation(),
            "Overview",
            f"  sessionflow status {project} --storage {storage} --working {working}",
            "The runs in Prefect",
            *prefect_ui(),
            "Run it again: everything is done, and nothing is done twice.",
        ]
    )


def activation() -> list[str]:
    """Say how to get the commands below found, where they are not."""
    script = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("sessionflow") or not script.exists():
        return []
    return ["For the commands below, once in each terminal", f"  source {shlex.quote(str(script))}"]


def prefect_ui() -> list[str]:
    """Say how to see the runs in a browser."""
    if api := os.environ.get("PREFECT_API_URL"):
        return [f"  open {api.removesuffix('/api')} in a browser"]
    return [
        "  PREFECT_SERVER_ANALYTICS_ENABLED=false prefect server start",
        "  then open http://127.0.0.1:4200 in a browser",
    ]
