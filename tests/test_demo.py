"""The demo, as a new user runs it: what it says, what it leaves, and that a second run does nothing twice."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments import environment
from tests.prefect_server import PrefectServer
from trackers.site import INSTALLED

PIPELINES = [
    *("manifest", "checksum", "preparation", "behavior", "suite2p", "video"),
    *("multiday", "forging", "report", "archiving"),
]


def demo(folder: Path, environment: dict[str, str], *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "demo", str(folder), *options],
        env={**environment, "COLUMNS": "120"},  # lines as they are, and not as wide as the tests' own terminal
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and ".sessionflow" not in path.parts and path.suffix != ".lock"
    }


@pytest.mark.slow
def test_the_demo_processes_what_is_good_catches_what_is_damaged_and_does_nothing_twice(
    tmp_path: Path, prefect: PrefectServer
) -> None:
    folder = tmp_path / "a folder"
    said = demo(folder, prefect.environment)
    archived, kept = ("305/2025-08-26-23-35-15-123456", "306/2025-08-26-23-36-15-123456")
    assert (folder / "storage" / "demo" / archived / "archived_data/behavior_data/encoder_data.feather").exists()
    assert (folder / "working" / "demo" / kept / "processed_data/behavior_data/encoder_data.feather").exists()
    assert (folder / "storage" / "demo" / "demo_manifest.feather").exists()
    assert "face_camera.mp4" in said
    assert "no telomere.bin" in said
    before = files(folder)
    again = demo(folder, prefect.environment)
    assert "done already" in again
    assert files(folder) == before
    status = next(line for line in again.splitlines() if line.startswith("  sessionflow status"))
    words = [sys.executable, "-m", "flows.cli", *shlex.split(status)[1:]]
    shown = subprocess.run(words, env=prefect.environment, capture_output=True, text=True, check=True).stdout
    assert "complete, archived" in shown


def test_the_demo_leaves_a_folder_of_somebody_else_alone(tmp_path: Path) -> None:
    (tmp_path / "storage" / "demo").mkdir(parents=True)
    refused = subprocess.run(
        [sys.executable, "-m", "flows.cli", "demo", str(tmp_path)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "no example project" in refused.stderr
    assert not list((tmp_path / "storage" / "demo").iterdir())


def test_the_science_demo_says_before_anything_else_how_to_install_what_it_needs(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    refused = subprocess.run(
        [sys.executable, "-m", "flows.cli", "demo", "--science", str(folder)],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "sessionflow server install local --with suite2p,video,forging,report" in refused.stderr
    assert "Nothing was done" in refused.stderr
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_science_demo_runs_all_nine_pipelines_and_ends_with_a_page_of_each_day(
    tmp_path: Path, prefect: PrefectServer
) -> None:
    (tmp_path / INSTALLED).mkdir(parents=True)  # environments are where `server install local` puts them
    for name in ("suite2p", "video", "forging", "report"):
        (tmp_path / INSTALLED / name).symlink_to(environment(name).parent.parent)
    variables = {**prefect.environment, "HOME": str(tmp_path)}
    said = demo(tmp_path / "demo", variables, "--science").splitlines()
    steps = [line.split() for line in said if line.startswith("  ") and line.split()[0] in PIPELINES]
    assert [words[0] for words in steps] == PIPELINES
    assert all(words[2] == "s" for words in steps)
    dataset, *pages = [Path(line.split("file://")[1]) for line in said if "file://" in line]
    assert len(list(dataset.glob("305/*.nwb"))) == len(pages) == 3
    assert pages[0].is_relative_to(tmp_path / "demo/storage")  # it has been archived
    for page in pages:
        assert "cells were found on all 3 days" in page.read_text()
        assert "Nothing wrong was found" in page.read_text()
    before = files(tmp_path / "demo")
    again = demo(tmp_path / "demo", variables, "--science").splitlines()
    assert [line.split()[0] for line in again if "done already" in line] == PIPELINES
    assert again[-len(pages) :] == said[-len(pages) :]
    assert files(tmp_path / "demo") == before
