"""suite2p through the flow, in its own environment: it finds what suite2p finds, and every plane stands by itself."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tifffile")

from flows.process_session import process_session
from flows.suite2p import suite2p
from jobs.generate_imaging import PHYSICS, SIZES, write_imaging
from tasks.compute_server import ComputeServer
from tests.cluster import Cluster
from tests.conftest import SESSION, make_session
from tests.environments import environment
from tests.managers import program, server_of
from tests.prefect_server import REPOSITORY
from tests.suite2p_direct import FOLDER, differing, planes_of
from trackers.errors import BadInputError, NotEligibleError
from trackers.layout import SessionPaths, Volumes
from trackers.names import ProcessingPipelines
from trackers.tracker import ProcessingTracker, TrackerState

RIGID: dict[str, Any] = {"registration.nonrigid": False}
pytestmark = pytest.mark.timeout(1200)


class Recording:
    """A mesoscope recording on one volume, verified and prepared."""

    def __init__(self, root: Path) -> None:
        make_session(root, kind="mesoscope experiment")
        self.root, self.paths = root, SessionPaths(Volumes(root, root), "Project", "305", SESSION)
        self.raw = self.paths.raw_data / "mesoscope_data"
        self.raw.mkdir()
        self.results = self.paths.processed_data / "mesoscope_data"
        for which in (ProcessingPipelines.CHECKSUM, ProcessingPipelines.PREPARATION):
            path = self.paths.tracker(which)
            path.parent.mkdir(exist_ok=True)
            ProcessingTracker(path).set_state(TrackerState(complete=True))

    async def run(self, python: Path, server: ComputeServer | None = None, **options: Any) -> Any:
        """Run the pipeline."""
        server = server or ComputeServer(
            storage_root=str(self.root),
            environments={"suite2p": {"python": str(python)}},
            resources={"suite2p/*": {"cpus": 1, "memory_gb": 1}},
        )
        options = {"settings": RIGID, **options}
        return await suite2p("Project", "305", SESSION, server=server, requested_by="ada", **options)

    def two_rois(self) -> None:
        """Have each frame be two ROIs, one above the other, apart by lines that are none's."""
        import tifffile

        first = self.raw / "mesoscope_000001.tiff"
        movie = tifffile.imread(first)
        gap = np.zeros((len(movie), 8, movie.shape[2]), np.int16)
        tifffile.imwrite(first, np.concatenate([movie, gap, movie[:, ::-1]], 1), photometric="minisblack")
        height = movie.shape[1]
        lines = [list(range(height)), list(range(height + 8, 2 * height + 8))]
        ops = json.loads((self.raw / "ops.json").read_text())
        ops |= {"nrois": 2, "lines": lines, "dy": [0, 0], "dx": [0, movie.shape[2]]}
        (self.raw / "ops.json").write_text(json.dumps(ops))


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    found = Recording(tmp_path)
    write_imaging(found.raw, dataclasses.replace(SIZES["ci"], cells=12), PHYSICS["A"], 1, 0)
    return found


def assert_equal(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """The same ROIs, pixel by pixel, and the same traces."""
    for mine, theirs in zip(one, other, strict=True):
        assert differing(mine, theirs) == []


def directly(python: Path, recording: Recording) -> Path:
    """Call suite2p itself on the tiffs, in one process; return its folder."""
    words = [str(python), "-m", "tests.suite2p_direct", str(recording.raw), str(recording.root)]
    subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True)
    return recording.root / FOLDER


async def test_the_flow_finds_what_suite2p_finds_in_one_process_and_a_failed_plane_runs_again_alone(
    recording: Recording,
) -> None:
    python = environment("suite2p")
    # a folder where the second plane's traces belong: it fails, and it alone
    (recording.results / "plane1" / "F.npy").mkdir(parents=True)
    failed = await recording.run(python)
    states = {job.name: job.state for job in failed.jobs}
    assert states.pop("combine") != "COMPLETED"
    assert states == {"binarize": "COMPLETED", "plane-0": "COMPLETED", "plane-1": "FAILED"}
    before = (recording.results / "plane0" / "F.npy").stat().st_mtime_ns
    (recording.results / "plane1" / "F.npy").rmdir()
    report = await recording.run(python)
    assert report.succeeded, report.sentence
    attempts = {job.name: job.attempts for job in report.jobs}
    assert (attempts["binarize"], attempts["plane-0"], attempts["plane-1"]) == (1, 1, 2)
    assert (recording.results / "plane0" / "F.npy").stat().st_mtime_ns == before

    ours, theirs = recording.results, directly(python, recording)
    assert_equal(planes_of(ours, 2), planes_of(theirs, 2))
    assert np.array_equal(np.load(ours / "combined/F.npy"), np.load(theirs / "combined/F.npy"))
    assert len(np.load(ours / "combined/F.npy")) > 12
    record = json.loads((recording.paths.tracking_data / "results/SUITE2P.json").read_text())
    recorded = {output["path"] for output in record["outputs"]}
    assert {f"processed_data/mesoscope_data/{f}/F.npy" for f in ("plane0", "plane1", "combined")} <= recorded
    assert record["versions"]["suite2p"].startswith("1.1")

    once = planes_of(ours, 2)
    again = await recording.run(python, plane=1)
    assert again.succeeded, again.sentence
    assert [job.name for job in again.jobs] == ["plane-1", "combine"]
    assert "it was registered before" in again.notes[0]
    assert_equal(planes_of(ours, 2), once)
    record = json.loads((recording.paths.tracking_data / "results/SUITE2P.json").read_text())
    assert {output["path"] for output in record["outputs"]} == recorded


@pytest.mark.slow
async def test_a_reprocessing_that_failed_leaves_the_result_and_goes_on_with_the_plane_that_failed(
    recording: Recording,
) -> None:
    python = environment("suite2p")
    assert (await recording.run(python)).succeeded
    once, record = planes_of(recording.results, 2), recording.paths.tracking_data / "results" / "SUITE2P.json"
    recorded = record.read_bytes()
    # python itself fails on one plane, in the middle of the run
    broken = recording.root / "python"
    broken.write_text(f'#!/bin/bash\n[[ "$*" == *"--plane 1"* ]] && exit 9\nexec {python} "$@"\n')
    broken.chmod(0o755)
    wish = {"settings": {**RIGID, "detection.threshold_scaling": 2.0}}
    failed = await recording.run(broken, **wish)
    assert not failed.succeeded
    assert failed.reason.endswith("a result that was there before is in place as it was")
    assert_equal(planes_of(recording.results, 2), once)
    assert record.read_bytes() == recorded
    before = (recording.results / "next" / "plane0" / "F.npy").stat().st_mtime_ns
    report = await recording.run(python, **wish)
    assert report.succeeded, report.sentence
    attempts = {job.name: job.attempts for job in report.jobs}
    assert (attempts["binarize"], attempts["plane-0"], attempts["plane-1"]) == (1, 1, 2)
    assert report.jobs[-1].name == "publish"
    assert (recording.results / "plane0" / "F.npy").stat().st_mtime_ns == before
    assert_equal(planes_of(recording.results / "previous", 2), once)
    assert not (recording.results / "next").exists()
    for output in json.loads(record.read_bytes())["outputs"]:
        assert (recording.paths.processed_data.parent / output["path"]).stat().st_size == output["size"]
    db = np.load(recording.results / "plane1" / "db.npy", allow_pickle=True).item()
    assert db["reg_file"] == str(recording.results / "plane1" / "data.bin")
    alone = await recording.run(python, plane=1, **wish)
    assert alone.succeeded, alone.sentence
    assert_equal(planes_of(recording.results / "previous", 2), once)


@pytest.mark.slow
async def test_two_rois_are_planes_of_their_own_as_in_suite2p(recording: Recording) -> None:
    python = environment("suite2p")
    recording.two_rois()
    with pytest.raises(BadInputError, match="speaks of 4 planes, not of 2"):
        await recording.run(python, planes=2)
    report = await recording.run(python, planes=4)
    assert report.succeeded, report.sentence
    assert_equal(planes_of(recording.results, 4), planes_of(directly(python, recording), 4))


@pytest.mark.slow
async def test_on_a_cluster_every_plane_is_a_job_between_binarize_and_combine(
    recording: Recording, cluster: Cluster
) -> None:
    python = recording.root / "suite2p-python"
    python.write_text(f'#!/bin/bash\nPYTHONPATH={REPOSITORY} exec {environment("suite2p")} "$@"\n')
    python.chmod(0o755)
    server = server_of(
        *(cluster, recording.root),
        storage_root=str(recording.root),
        working_root="",
        environments={"core": {"python": str(program(recording.root / "python"))}, "suite2p": {"python": str(python)}},
        resources={"suite2p/*": {"cpus": 1, "memory_gb": 4}},
    )
    report = await recording.run(python, server)
    assert report.succeeded, report.sentence
    assert [(job.stage, job.name) for job in report.jobs] == [
        ("binarize", "binarize"),
        ("planes", "plane-0"),
        ("planes", "plane-1"),
        ("combine", "combine"),
    ]
    assert len(np.load(recording.results / "combined/F.npy")) > 12


@pytest.mark.slow
async def test_a_recording_without_cells_is_a_success_with_empty_tables(tmp_path: Path) -> None:
    import tifffile

    python = environment("suite2p")
    recording = Recording(tmp_path)
    noise = np.random.default_rng(1).normal(300, 10, (300, 64, 64)).astype(np.int16)
    tifffile.imwrite(recording.raw / "1.tiff", np.repeat(noise[:1], 300, 0), photometric="minisblack")
    (recording.raw / "ops.json").write_text(json.dumps({"fs": 10.0, "nplanes": 1}))
    report = await recording.run(python)
    assert report.succeeded, report.sentence
    assert "plane 0: no cells were found" in report.notes
    assert np.load(recording.results / "plane0" / "F.npy").shape == (0, 300)


@pytest.mark.slow
async def test_a_tiff_that_ends_early_is_refused_by_its_name_and_nothing_is_written(recording: Recording) -> None:
    python = environment("suite2p")
    tiff = recording.raw / "mesoscope_000001.tiff"
    with tiff.open("rb+") as file:
        file.truncate(tiff.stat().st_size // 2)
    report = await recording.run(python)
    assert not report.succeeded
    assert f"{tiff} is broken" in report.reason
    assert "Copy it anew" in report.reason
    assert not list(recording.results.rglob("data*.bin"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"planes": 3}, "speaks of 2 planes, not of 3"),
        ({"planes": 0}, "speaks of 2 planes, not of 0"),
        ({"plane": 2}, "no plane 2: the recording has 0 to 1"),
        ({"plane": -1}, "no plane -1"),
        ({"settings": {"detection": {"treshold_scaling": 1}}}, r"detection\.threshold_scaling"),
        ({"settings": {"tau": "long"}}, "tau must be float"),
    ],
)
async def test_options_that_do_not_fit_the_recording_are_refused_before_anything_runs(
    recording: Recording, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInputError, match=words):
        await recording.run(Path("/bin/true"), **options)
    assert not recording.results.exists()


async def test_where_suite2p_is_not_installed_a_session_is_processed_without_it_and_told_the_command(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(recording.root))
    server = ComputeServer(storage_root=str(recording.root))
    report = await process_session("Project", "305", SESSION, server=server, pipelines=["suite2p"])
    assert report.succeeded
    skipped = next(each for each in report.pipelines if each.pipeline is ProcessingPipelines.SUITE2P)
    assert not skipped.ran
    assert "sessionflow server install local --with suite2p" in skipped.reason
    with pytest.raises(NotEligibleError, match="server install local --with suite2p"):
        await suite2p("Project", "305", SESSION, server=server)


async def test_a_recording_without_ops_json_is_passed_over_in_words(recording: Recording) -> None:
    (recording.raw / "ops.json").unlink()
    server = ComputeServer(storage_root=str(recording.root), environments={"suite2p": {"python": "/bin/true"}})
    report = await process_session("Project", "305", SESSION, server=server, pipelines=["suite2p"])
    assert report.succeeded
    assert "ops.json is missing" in report.pipelines[-1].reason
    with pytest.raises(NotEligibleError, match=r"ops\.json is missing"):
        await suite2p("Project", "305", SESSION, server=server)


def test_planes_that_were_not_processed_are_not_combined(tmp_path: Path) -> None:
    from jobs.suite2p import combine
    from trackers.errors import SessionDataError

    (tmp_path / "plane0").mkdir()
    shutil.copy(__file__, tmp_path / "plane0" / "stat.npy")
    with pytest.raises(SessionDataError, match=r"plane 1 of 2 has no stat\.npy"):
        combine(tmp_path, 2)
