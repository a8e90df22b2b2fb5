"""The demo, as a new user runs it: what it says, what it leaves, and that a second run does nothing twice."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.prefect_server import PrefectServer


def demo(folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "demo", str(folder)],
        env=environment,
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
