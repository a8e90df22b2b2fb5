"""The science demo: three days of an animal with planted cells, through all nine pipelines, to a page of each day."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from flows.cli_control import ask
from flows.cli_run import shown
from flows.demo import NEEDS, activation, generated, not_importable, prefect_ui
from flows.eligibility import Facts, done
from flows.terminal import step_line
from tasks.reports import SessionReport
from tasks.servers import Override, Server
from trackers.commands import install_command
from trackers.environments import missing
from trackers.errors import BadInputError
from trackers.files import atomic_write, make_directory
from trackers.layout import SessionPaths
from trackers.names import ProcessingPipelines
from trackers.site import Site

PROJECT, DATASET, DAYS = "science", "learning", 3
ENVIRONMENTS = ("suite2p", "video", "forging", "report")
STEPS = {
    ProcessingPipelines.MANIFEST: "a table of all sessions",
    ProcessingPipelines.CHECKSUM: "the recordings are as they were written",
    ProcessingPipelines.PREPARATION: "copied to the fast volume",
    ProcessingPipelines.BEHAVIOR: "running, licks and rewards from the logs",
    ProcessingPipelines.SUITE2P: "cells and their activity from the movies",
    ProcessingPipelines.VIDEO: "motion from the cameras",
    ProcessingPipelines.MULTIDAY: f"the same cells on {DAYS} days, and a page of each day",
    ProcessingPipelines.FORGING: "a dataset of NWB files and tables",
    ProcessingPipelines.REPORT: "a page of each day",
    ProcessingPipelines.ARCHIVING: "results moved to the large volume",
}
SETTINGS = """\
# `sessionflow settings SESSION` shows all settings, and where each comes from.
suite2p:
  registration.nonrigid: false  # its blocks are 128 px, and so is the whole image here
forging:
  species: Mus musculus
"""


def science_demo(arguments: argparse.Namespace) -> int:
    """Write a project with planted cells into a folder, and take it through all pipelines; return the exit code."""
    folder, started = Path(arguments.folder).absolute(), time.monotonic()
    server = Server(
        storage_root=str(folder / "storage"),
        working_root=str(folder / "working"),
        resources={"*": Override(cpus=1)},  # movies are small here: a plane need not have 30 cores to itself
    )
    site = Site.from_json(server.site())
    _require(site)
    print(f"{DAYS} days of an animal with planted cells, in {folder} …", flush=True)
    project = generated(site.volumes.storage, "--science", "--project", PROJECT, "--days", str(DAYS))
    site.volumes.working.mkdir(exist_ok=True)
    _write_settings(site.volumes.storage / PROJECT / "settings" / "project.yaml")
    animal, sessions = project["sessions"][0]["animal"], [session["session"] for session in project["sessions"]]
    print(f"They are there after {time.monotonic() - started:.0f} s. All nine pipelines, and a report:\n", flush=True)
    before = _done_before(server, animal)
    for step, since in before.items():
        print(step_line(step.name.lower(), "", since), flush=True)
    if left := [step for step in STEPS if step not in before]:
        report = _process(server, animal, sessions, left)
        if not report.succeeded:
            print(f"\n{report.sentence}\nWhat was done before stays; the same command goes on from there.")
            return 1
    pages = [_page(SessionPaths(site.volumes, PROJECT, animal, session)) for session in sessions]
    print(_where(folder, pages, site.datasets / PROJECT / DATASET, time.monotonic() - started))
    return 0


def _require(site: Site) -> None:
    """Refuse to begin without all that is needed.

    Raises:
        BadInputError: with the commands that install what is not there.
    """
    problems = []
    if packages := not_importable((*NEEDS, "tifffile", "cv2")):
        problems.append(f"packages ({', '.join(packages)}): pip install 'sessionflow[demo,science]'")
    if absent := [name for name in missing(site) if name in ENVIRONMENTS]:
        problems.append(f"environments ({', '.join(absent)}): {install_command(*ENVIRONMENTS)}")
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise BadInputError(f"The science demo needs what is not installed here. Nothing was done. Install{listed}")


def _write_settings(path: Path) -> None:
    """Write the project's settings, as people would, unless they have been written."""
    if not path.exists():
        make_directory(path.parent)
        atomic_write(path, SETTINGS.encode())


def _done_before(server: Server, animal: str) -> dict[ProcessingPipelines, str]:
    """Return since when the first steps are done, up to one that is not; whatever runs is followed by a manifest."""
    rows = ask(server, "status", project=PROJECT)
    of_datasets = {facts["target"]: facts for facts in ask(server, "datasets", project=PROJECT)}
    manifest, *steps = STEPS
    targets = dict.fromkeys(steps, rows)
    targets[ProcessingPipelines.MULTIDAY] = [of_datasets.get(f"{PROJECT}/{DATASET}/{animal}")]
    targets[ProcessingPipelines.FORGING] = [of_datasets.get(f"{PROJECT}/{DATASET}")]

    def since(step: ProcessingPipelines, facts: Facts | None) -> str:
        if not facts or facts.get("problem"):
            return ""
        archived = step is ProcessingPipelines.PREPARATION and facts["archived"]
        return "done already, and archived since" if archived else done(step, facts)

    before: dict[ProcessingPipelines, str] = {}
    for step in steps:
        found = [since(step, facts) for facts in targets[step]]
        if not all(found):
            return before
        before[step] = found[-1]
    return {manifest: "done already", **before}


def _process(server: Server, animal: str, sessions: list[str], steps: list[ProcessingPipelines]) -> SessionReport:
    """Run the steps that are left."""
    from flows.demo_flow import demo_flow  # Prefect takes seconds to import
    from tasks.compute_server import ComputeServer

    words = {step.name: STEPS[step] for step in steps}
    block = ComputeServer(**server.model_dump())
    report: SessionReport = shown(lambda: demo_flow(PROJECT, animal, sessions, DATASET, words, block), lines=False)
    return report


def _page(paths: SessionPaths) -> str:
    """Return the address of a session's page, which archiving has moved."""
    page = Path("report") / "report.html"
    archived = paths.archived_data / page
    return (archived if archived.exists() else paths.processed_data / page).as_uri()


def _where(folder: Path, pages: list[str], dataset: Path, seconds: float) -> str:
    roots = (f"--storage {shlex.quote(str(folder / 'storage'))}", f"--working {shlex.quote(str(folder / 'working'))}")
    return "\n".join(
        [
            "",
            f"Done in {seconds:.0f} s.",
            "",
            *activation(),
            "Overview",
            f"  sessionflow status {PROJECT} {' '.join(roots)}",
            "The runs in Prefect",
            *prefect_ui(),
            "The dataset",
            f"  {dataset.as_uri()}",
            "A page of each day, for a browser",
            *(f"  {page}" for page in pages),
        ]
    )
