"""A try of suite2p's settings: beside the result, on the movie as it is registered, and shown next to the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tifffile")

from flows.eligibility import usable
from flows.try_suite2p import named, try_suite2p
from tasks.compute_server import ComputeServer
from tests.environments import environment
from tests.test_report import plant_good, report
from tests.test_suite2p import SESSION, Recording, planes_of, recording
from trackers.errors import BadInputError, NotEligibleError
from trackers.names import ProcessingPipelines, validate_name
from trackers.publication import TRIES

__all__ = ["recording"]
CHANGES = {"detection.threshold_scaling": 3.0}


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return time of change and contents of what lies in suite2p's folder outside of tries."""
    paths = (p for p in folder.rglob("*") if p.is_file() and TRIES not in p.parts)
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_try_changes_nothing_of_the_result_and_is_shown_beside_it(recording: Recording) -> None:
    python, tracking = environment("suite2p"), recording.paths.tracking_data
    described: Any = {name: {"python": str(environment(name))} for name in ("suite2p", "report")}
    resources: Any = {"*": {"cpus": 1, "memory_gb": 1}}
    server = ComputeServer(storage_root=str(recording.root), environments=described, resources=resources)
    assert (await recording.run(python)).succeeded
    kept = {
        path: path.read_bytes()
        for path in (tracking / "results/SUITE2P.json", tracking / "suite2p_processing_tracker.yaml")
    }
    before, once = contents(recording.results), planes_of(recording.results, 2)
    done = await try_suite2p("Project", "305", SESSION, CHANGES, server=server, requested_by="ada")
    assert done.succeeded, done.sentence
    assert contents(recording.results) == before
    assert {path: path.read_bytes() for path in kept} == kept
    tried = planes_of(recording.results / TRIES / "threshold_scaling-3.0", 2)
    assert sum(len(p["F"]) for p in tried) < sum(len(p["F"]) for p in once)
    page = (recording.paths.processed_data / "report" / "report.html").read_text()
    assert "Try: threshold_scaling-3.0" in page
    assert "detection.threshold_scaling 1.0 → 3.0" in page
    assert any(note.startswith("plane 1: ") and "in the result" in note for note in done.notes)


def test_both_results_stand_on_the_page_with_their_numbers_and_what_is_other(tmp_path: Path) -> None:
    import shutil

    paths = plant_good(tmp_path)
    place = paths.processed_data / "mesoscope_data"
    for number in (0, 1):
        made, tried = place / f"plane{number}", place / TRIES / "lower" / f"plane{number}"
        shutil.copytree(made, tried, ignore=shutil.ignore_patterns("data.bin"))
        settings = np.load(made / "settings.npy", allow_pickle=True).item()
        np.save(tried / "settings.npy", settings | {"detection": {"threshold_scaling": 0.8}})
        accepted = np.load(tried / "iscell.npy")
        accepted[1:, 0] = 0
        np.save(tried / "iscell.npy", accepted)
        begun = place / TRIES / "failed" / f"plane{number}"
        begun.mkdir(parents=True)
        for name in ("db", "settings", "reg_outputs"):  # what a try leaves that fails while it looks for cells
            shutil.copy(made / f"{name}.npy", begun)
    (place / TRIES / "broken" / "plane0").mkdir(parents=True)
    html, _ = report(paths)
    assert "32 cells in the result, 2 in the try. detection.threshold_scaling None → 0.8." in html
    assert "result, plane 0: 16 cells of 16 ROIs" in html
    assert "try, plane 0: 1 cells of 16 ROIs" in html
    assert html.count("It was not finished, or is of other planes than the result") == 2


def test_a_try_is_named_by_its_settings() -> None:
    name = named({"detection.threshold_scaling": 0.8, "anatomical/only": "a b"})
    assert name == validate_name(name, "try") == "anatomical_only-a_b+threshold_scaling-0.8"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "needs a setting"),
        ({"registration.nonrigid": False}, "registration.nonrigid: a try looks for cells on the movie as it is"),
        ({"detection": {"treshold_scaling": 1}}, r"detection\.threshold_scaling"),
    ],
)
async def test_what_a_try_cannot_change_is_refused_before_anything_runs(
    recording: Recording, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInputError, match=words):
        await try_suite2p("Project", "305", SESSION, settings, server=ComputeServer(storage_root=str(recording.root)))
    assert not recording.results.exists()


async def test_without_a_result_nothing_can_be_tried(recording: Recording) -> None:
    server = ComputeServer(storage_root=str(recording.root))
    with pytest.raises(NotEligibleError, match="none of behavior, suite2p and video has succeeded"):
        await try_suite2p("Project", "305", SESSION, CHANGES, server=server)
    assert not usable(ProcessingPipelines.SUITE2P, {"pipelines": {"SUITE2P": {"status": "failed"}}})
