"""Pose with a DeepLabCut project that is trained here: minutes; by hand with `pytest -m deeplabcut`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flows.video import video
from tasks.compute_server import ComputeServer
from tests.conftest import SESSION
from tests.environments import environment
from tests.test_video import DISTANCE, about, movie, paths  # noqa: F401 - fixtures
from trackers.layout import SessionPaths

marker = pytest.importorskip("jobs.generate_movie").marker
REPOSITORY = Path(__file__).parents[1]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.deeplabcut
@pytest.mark.timeout(3600)
async def test_the_marker_is_found_to_a_pixel_and_the_project_stays_as_it_was(
    paths: SessionPaths,  # noqa: F811
    movie: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    python, projects = environment("deeplabcut"), paths.volumes.storage / "deeplabcut_projects"
    projects.mkdir()
    x, y = marker(DISTANCE)
    np.savez(tmp_path / "truth.npz", x=x, y=y)
    words = [str(python), "-m", "tests.deeplabcut_project", str(projects), str(movie), str(tmp_path / "truth.npz")]
    trained = subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True, text=True)  # noqa: ASYNC221
    project = Path(trained.stdout.strip().splitlines()[-1])
    before = contents(project)
    described: Any = {name: {"python": str(environment(name))} for name in ("video", "deeplabcut")}
    server = ComputeServer(storage_root=str(paths.volumes.storage), environments=described)
    report = await video("Project", "305", SESSION, server=server, deeplabcut={"face": project.name}, requested_by="a")
    assert report.succeeded, report.sentence
    table = pl.read_ipc(paths.processed_data / "camera_data/face_camera_pose.feather")
    for suffix in ("", "_filtered"):
        found = [table[f"marker_{axis}{suffix}"].to_numpy() for axis in "xy"]
        assert np.median(np.hypot(found[0] - x, found[1] - y)) < 1
    assert (about(paths, "face")["ran"], about(paths, "face")["project"]) == ("DeepLabCut", project.name)
    assert about(paths, "left")["ran"] == "motion energy"
    assert contents(project) == before
