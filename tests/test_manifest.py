"""The manifest equals 5.1.0's, is shared by many requests at once, and survives broken sessions."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from jobs import manifest
from jobs.manifest import generate_manifest
from tests.test_accounts_and_volumes import as_account, needs_root
from trackers.errors import BadInputError, LockTimeoutError
from trackers.facts import project_status
from trackers.files import locked
from trackers.layout import ProjectPaths, Volumes
from trackers.site import Site
from trackers.tracker import ProcessingTracker

FIXTURE = Path(__file__).parent / "data" / "manifest"
PROJECT = "ExampleProject"


@pytest.fixture
def paths(tmp_path: Path) -> ProjectPaths:
    shutil.copytree(FIXTURE / "storage", tmp_path, dirs_exist_ok=True)
    found = ProjectPaths(Volumes(tmp_path, tmp_path), PROJECT)
    found.manifest.unlink()
    return found


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_the_manifest_equals_the_one_that_5_1_0_makes(paths: ProjectPaths) -> None:
    before = contents(paths.directory)
    assert generate_manifest(paths, 5) == []
    expected = pl.read_ipc(FIXTURE / "storage" / PROJECT / paths.manifest.name)
    assert_frame_equal(pl.read_ipc(paths.manifest), expected, check_exact=True)
    rows = json.loads((FIXTURE / "expected.json").read_text())["rows"]
    assert [row["session"] for row in rows] == pl.read_ipc(paths.manifest)["session"].to_list()
    changed = {name for name, content in contents(paths.directory).items() if before.get(name) != content}
    own = {paths.manifest.name, f"{paths.manifest.name}.lock", "manifest_generation_tracker.yaml.lock"}
    assert changed <= own
    assert ProcessingTracker(paths.manifest_tracker).is_complete


def test_animals_that_are_not_all_numbers_are_text(paths: ProjectPaths) -> None:
    shutil.copytree(paths.directory / "9", paths.directory / "Mickey")
    for data in (paths.directory / "Mickey").rglob("session_data.yaml"):
        data.write_text(data.read_text().replace("animal_id: '9'", "animal_id: Mickey"))
    generate_manifest(paths, 5)
    found = pl.read_ipc(paths.manifest)
    assert found.schema["animal"] == pl.String
    assert found["animal"].to_list() == sorted(found["animal"].to_list())
    assert found.height == 8


def test_a_broken_session_is_reported_and_keeps_no_other_out(paths: ProjectPaths) -> None:
    broken = paths.directory / "11" / "2025-01-15-03-04-05-000006"
    (broken / "raw_data" / "session_data.yaml").write_text("no: [yaml")
    corrupt = paths.directory / "102" / "2025-08-26-18-30-15-123456" / "tracking_data"
    (corrupt / "video_processing_tracker.yaml").write_bytes(b"\0\1")
    (paths.directory / "11" / "2025-07-04-23-59-59-999999" / "raw_data" / "session_descriptor.yaml").unlink()
    problems = generate_manifest(paths, 5)
    assert len(problems) == 3
    assert any("11/2025-01-15-03-04-05-000006" in p and "session_data.yaml" in p for p in problems)
    assert any("video_processing_tracker.yaml" in p for p in problems)
    assert pl.read_ipc(paths.manifest).height == 3


@needs_root
def test_folders_that_may_not_be_read_are_reported_and_keep_no_other_out(paths: ProjectPaths) -> None:
    (paths.directory / "11" / "2025-01-15-03-04-05-000006" / "raw_data").chmod(0)
    (paths.directory / "11" / "2025-07-04-23-59-59-999999").chmod(0)
    (paths.directory / "9").chmod(0)
    for directory in (paths.directory, *paths.directory.parents[:-2]):
        directory.chmod(directory.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)

    def read() -> None:
        rows, problems = manifest.manifest_rows(paths)
        assert {row["animal"] for row in rows} == {"102"}
        assert len(problems) == 3
        assert all("ermission denied" in problem for problem in problems)
        status = project_status(Site(paths.volumes), PROJECT)
        assert "ermission denied" in next(row["problem"] for row in status if row["animal"] == "9")
        shown = {row["session"]: row["problem"] for row in status}
        assert "ermission denied" in shown["2025-01-15-03-04-05-000006"]
        assert shown["2025-08-26-18-30-15-123456"] == ""

    assert as_account(4243, 4242, read) == ""


@pytest.mark.parametrize("animal", ["٣", "9" * 20])
def test_an_animal_whose_digits_are_no_64_bit_number_is_text(paths: ProjectPaths, animal: str) -> None:
    shutil.copytree(paths.directory / "9", paths.directory / animal)
    for data in (paths.directory / animal).rglob("session_data.yaml"):
        data.write_text(data.read_text().replace("animal_id: '9'", f"animal_id: '{animal}'"))
    assert generate_manifest(paths, 5) == []
    found = pl.read_ipc(paths.manifest)
    assert found.schema["animal"] == pl.String
    assert animal in found["animal"].to_list()


def test_notes_that_are_null_are_the_default(paths: ProjectPaths) -> None:
    descriptor = paths.directory / "11" / "2025-01-15-03-04-05-000006" / "raw_data" / "session_descriptor.yaml"
    descriptor.write_text("experimenter_notes: null\n")
    generate_manifest(paths, 5)
    found = pl.read_ipc(paths.manifest).filter(pl.col("session") == "2025-01-15-03-04-05-000006")
    assert found["notes"].to_list() == ["Replace this with your notes."]


def test_a_session_with_empty_raw_data_and_what_is_no_session_are_passed_over(paths: ProjectPaths) -> None:
    (paths.directory / "11" / "2025-09-01-00-00-00-000000" / "raw_data").mkdir(parents=True)
    (paths.directory / "11" / "notes" / "raw_data").mkdir(parents=True)
    (paths.directory / "configuration").mkdir(exist_ok=True)
    assert generate_manifest(paths, 5) == []
    assert pl.read_ipc(paths.manifest).height == 6


def test_the_time_zone_can_be_chosen_and_nonsense_is_refused(paths: ProjectPaths) -> None:
    generate_manifest(paths, 5, "Europe/Berlin")
    assert pl.read_ipc(paths.manifest).schema["date"] == pl.Datetime("us", "Europe/Berlin")
    with pytest.raises(BadInputError, match="no time zone"):
        generate_manifest(paths, 5, "../etc/passwd")


def test_a_failure_is_marked_and_leaves_the_old_manifest(paths: ProjectPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    generate_manifest(paths, 5)
    before = paths.manifest.read_bytes()
    monkeypatch.setattr(manifest, "table", lambda _rows, _timezone: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate_manifest(paths, 5)
    assert ProcessingTracker(paths.manifest_tracker).encountered_error
    assert paths.manifest.read_bytes() == before
    assert not list((paths.directory / manifest.REQUESTS).iterdir())


def test_the_tracker_of_a_dead_manager_excludes_nobody(paths: ProjectPaths) -> None:
    ProcessingTracker(paths.manifest_tracker).abort()
    ProcessingTracker(paths.manifest_tracker).start(4711)
    generate_manifest(paths, 5)
    assert ProcessingTracker(paths.manifest_tracker).is_complete


def test_a_program_that_keeps_the_manifest_locked_is_named(
    paths: ProjectPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "LOCK_SECONDS", 0.3)
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(paths.manifest, held, done))
    other.start()
    held.wait(20)
    try:
        with pytest.raises(LockTimeoutError, match="manifest"):
            generate_manifest(paths, 5)
    finally:
        done.set()
        other.join()


def _hold(path: Path, held: object, done: object) -> None:
    with locked(path):
        held.set()  # type: ignore[attr-defined]
        done.wait(20)  # type: ignore[attr-defined]


def _count_regenerations(paths: ProjectPaths, number: int, log: Path) -> None:
    real = manifest._regenerate

    def counted(*arguments: object) -> list[str]:
        with log.open("a") as file:
            file.write(f"{number}\n")
        return real(*arguments)  # type: ignore[arg-type]

    manifest._regenerate = counted  # type: ignore[assignment]
    manifest.LOCK_SECONDS = 100.0  # eight interpreters may take long to start
    generate_manifest(paths, number)


def test_many_at_once_share_regenerations_that_begin_after_each_request(paths: ProjectPaths, tmp_path: Path) -> None:
    log = tmp_path / "regenerations.log"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_count_regenerations, args=(paths, n, log)) for n in range(1, 9)]
    with locked(paths.manifest):  # all of them ask while nobody can serve them
        for worker in workers:
            worker.start()
        while len(list(manifest._requests(paths, manifest.DEFAULT_TIMEZONE))) < len(workers):
            assert all(worker.exitcode is None for worker in workers)
        (paths.directory / "9" / "2025-05-01-12-00-00-000000" / "raw_data" / "telomere.bin").touch()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert len(log.read_text().split()) == 1
    assert pl.read_ipc(paths.manifest)["complete"].to_list()[0] == 1


def test_the_program_reports_broken_sessions_and_succeeds(paths: ProjectPaths, tmp_path: Path) -> None:
    (paths.directory / "9" / "2025-05-01-12-00-00-000000" / "raw_data" / "session_data.yaml").unlink()
    report = tmp_path / "report.json"
    roots = ["--storage", str(tmp_path), "--working", str(tmp_path), "--project", PROJECT, "--manager-id", "5"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jobs.manifest", *roots],
        env={**os.environ, "SESSIONFLOW_REPORT": str(report)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "9/2025-05-01-12-00-00-000000" in done.stderr
    assert len(json.loads(report.read_text())["notes"]) == 1
