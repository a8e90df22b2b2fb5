"""Video processing: motion of a marker whose speed is known, and what is said where a movie is not what it must be."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xxhash

from flows.eligibility import obstacle
from flows.process_session import process_session
from flows.video import video
from jobs.generate_animal import behave
from jobs.generate_logs import write_archives
from jobs.generate_movie import marker, write_movie
from jobs.video import timed
from tasks.compute_server import ComputeServer
from tests.conftest import SESSION, make_session
from tests.environments import environment
from trackers.cameras import video_facts
from trackers.errors import BadInputError, NotEligibleError, SessionDataError
from trackers.layout import SessionPaths, Volumes
from trackers.names import ProcessingPipelines
from trackers.site import Environment, Site
from trackers.tracker import ProcessingTracker, TrackerState

cv2 = pytest.importorskip("cv2")
ONSET_US = 1_756_233_015_123_456
BEHAVIOR = behave(20.0, 150, 10.0, 0.0, np.random.default_rng(4))
FRAMES = BEHAVIOR.cameras[51]
DISTANCE = np.interp(FRAMES, BEHAVIOR.time, BEHAVIOR.distance)
SPEED = np.diff(DISTANCE, prepend=DISTANCE[0]) * 30


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("movie") / "marker.mp4"
    write_movie(path, *marker(DISTANCE), np.random.default_rng(4))
    return path


@pytest.fixture
def paths(tmp_path: Path, movie: Path) -> SessionPaths:
    """A verified and prepared session, on one volume: face and left cameras, their logs, no right one."""
    make_session(tmp_path)
    found = SessionPaths(Volumes(tmp_path, tmp_path), "Project", "305", SESSION)
    for folder in ("camera_data", "behavior_data"):
        shutil.rmtree(found.raw_data / folder, ignore_errors=True)
        (found.raw_data / folder).mkdir()
    for camera in ("face", "left"):
        shutil.copy(movie, of(found, camera))
    write_archives(found.raw_data / "behavior_data", ONSET_US, {s: BEHAVIOR.sources()[s] for s in (51, 62)})
    for pipeline in (ProcessingPipelines.CHECKSUM, ProcessingPipelines.PREPARATION):
        path = found.tracker(pipeline)
        path.parent.mkdir(exist_ok=True)
        ProcessingTracker(path).set_state(TrackerState(complete=True))
    return found


def of(paths: SessionPaths, camera: str) -> Path:
    return paths.raw_data / "camera_data" / f"{SESSION}_{camera}_camera.mp4"


def server_of(paths: SessionPaths) -> ComputeServer:
    described: Any = {"video": {"python": str(environment("video"))}}
    return ComputeServer(storage_root=str(paths.volumes.storage), environments=described)


async def run(paths: SessionPaths, **options: Any) -> Any:
    return await video("Project", "305", SESSION, server=server_of(paths), requested_by="ada", **options)


def about(paths: SessionPaths, camera: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((paths.processed_data / f"camera_data/{camera}_camera_video.json").read_bytes())
    return found


def test_motion_energy_is_the_true_speed_and_components_are_those_of_all_frames_at_once(movie: Path) -> None:
    from jobs.video_motion import _differences, motion

    table, said = motion(movie, 5)
    assert table.height == len(FRAMES)
    assert np.corrcoef(table["motion_energy"].to_numpy()[1:], SPEED[1:])[0, 1] >= 0.95
    images = np.concatenate(list(_differences(movie, [])))
    images -= images.mean(axis=0)
    variances, scores = np.linalg.eigh(images @ images.T)
    for n in range(5):
        ours = table[f"component_{n + 1}"].to_numpy()[1:]
        assert abs(np.corrcoef(ours, scores[:, -1 - n])[0, 1]) > 0.99
    assert said["explained_variance"] == pytest.approx(variances[:-6:-1] / variances.sum(), rel=0.02)


def test_memory_does_not_grow_with_the_movie(movie: Path, tmp_path: Path) -> None:
    from jobs.video_motion import motion

    peaks = []
    for times in (1, 3):
        path = tmp_path / f"{times}.mp4"
        write_movie(path, *marker(np.tile(DISTANCE, times)), np.random.default_rng(1))
        tracemalloc.start()
        motion(path, 5)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_a_movie_of_one_frame_or_without_change_has_no_components(tmp_path: Path) -> None:
    from jobs.video_motion import motion

    writer = cv2.VideoWriter(str(tmp_path / "still.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 30, (64, 48))
    writer.write(np.full((48, 64, 3), 90, np.uint8))
    writer.release()
    table, _ = motion(tmp_path / "still.mp4", 5)
    assert table.columns == ["motion_energy"]
    assert table["motion_energy"].to_list() == [0.0]


@pytest.mark.parametrize("content", [b"", b"no movie at all" * 100])
def test_a_movie_that_is_empty_or_broken_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    from jobs.video_motion import motion

    (tmp_path / "broken.mp4").write_bytes(content)
    with pytest.raises(SessionDataError, match=r"broken.mp4 is (empty|broken).*Nothing was written. Restore"):
        motion(tmp_path / "broken.mp4", 5)


def test_frames_and_timestamps_that_do_not_go_together_are_said() -> None:
    assert timed(3, [1, 2, 3], "face")[1] == []
    times, words = timed(3, [1, 2], "face")
    assert times.to_list() == [1, 2, None]
    assert "3 frames and the log 2 timestamps" in words[0]
    assert "1 frames without a time" in words[0]
    assert "1 timestamps without a frame" in timed(1, [1, 2], "face")[1][0]
    assert timed(2, [], "face")[0].to_list() == [None, None]


def test_what_video_lacks_is_said_before_anything_starts(paths: SessionPaths, movie: Path) -> None:
    there = Site(paths.volumes, environments={"video": Environment(python=str(Path(shutil.which("python3") or "")))})
    assert video_facts(there, paths) == {"cameras": ["face", "left"], "video_problem": ""}
    gone = Site(paths.volumes, environments={"video": Environment(python="/nonexistent/python")})
    assert "'video' is not there" in video_facts(gone, paths)["video_problem"]
    of(paths, "face").write_bytes(b"")
    assert video_facts(there, paths)["video_problem"] == ""
    of(paths, "left").write_bytes(b"random")
    problem = video_facts(there, paths)["video_problem"]
    assert problem.startswith("none of the cameras' files is an MP4 movie")


async def test_each_camera_is_a_job_and_what_ran_stands_in_the_output(paths: SessionPaths) -> None:
    report = await run(paths)
    assert report.succeeded, report.sentence
    assert [job.name for job in report.jobs] == ["face", "left"]
    table = pl.read_ipc(paths.processed_data / "camera_data/face_camera_motion.feather")
    assert table.columns[:4] == ["frame", "time_us", "motion_energy", "component_1"]
    assert table["time_us"].to_list() == (ONSET_US + FRAMES).tolist()
    assert np.corrcoef(table["motion_energy"].to_numpy()[1:], SPEED[1:])[0, 1] >= 0.95
    said = about(paths, "face")
    assert (said["ran"], said["frames"], said["timestamps"], said["notes"]) == ("motion energy", 600, 600, [])
    assert {"opencv-python-headless", "numpy", "polars"} == set(said["versions"])
    assert not (await run(paths)).ran


async def test_a_broken_movie_fails_its_camera_only_and_is_said(paths: SessionPaths) -> None:
    of(paths, "left").write_bytes(of(paths, "left").read_bytes()[:5000])
    report = await run(paths)
    assert not report.succeeded
    assert "left_camera.mp4 is broken" in report.reason
    assert about(paths, "face")["frames"] == 600


async def test_a_movie_of_another_camera_is_not_taken_and_of_two_of_one_camera_it_is_said_which_was(
    paths: SessionPaths,
) -> None:
    of(paths, "backleft").write_bytes(b"another camera's")  # before left in the order of names
    of(paths, "z_face").write_bytes(b"the second")
    report = await run(paths)
    assert report.succeeded, report.reason
    assert (about(paths, "left")["movie"], about(paths, "left")["notes"]) == (of(paths, "left").name, [])
    face, other = of(paths, "face").name, of(paths, "z_face").name
    assert about(paths, "face")["notes"] == [f"face camera: it has several movies; {face} was taken, and not {other}"]


async def test_a_session_without_cameras_is_not_eligible_and_can_be_forged_without(paths: SessionPaths) -> None:
    for camera in ("face", "left"):
        of(paths, camera).unlink()
    with pytest.raises(NotEligibleError, match="it has no camera's movie"):
        await run(paths)
    done = {name: {"status": "succeeded"} for name in ("CHECKSUM", "PREPARATION", "BEHAVIOR")}
    facts = {"session_type": "run training", "complete": True, "prepared": True, "archived": False, "excluded": ""}
    facts |= {"pipelines": {**done, "VIDEO": {"status": ""}}}
    assert obstacle(ProcessingPipelines.FORGING, {**facts, "cameras": ["face"]}) == "run video first"
    assert obstacle(ProcessingPipelines.FORGING, {**facts, "cameras": []}) == ""


async def test_impossible_wishes_are_refused(paths: SessionPaths) -> None:
    with pytest.raises(BadInputError, match="nose: no camera; known are face, left, right"):
        await run(paths, deeplabcut={"nose": "whiskers"})
    with pytest.raises(BadInputError, match="0 components"):
        await run(paths, components=0)


async def test_process_session_passes_video_over_where_its_environment_is_missing(paths: SessionPaths) -> None:
    described: Any = {"video": {"python": "/nonexistent/python"}}
    server = ComputeServer(storage_root=str(paths.volumes.storage), environments=described)
    report = await process_session("Project", "305", SESSION, server=server, pipelines=["video"], requested_by="ada")
    [of_video] = [r for r in report.pipelines if r.pipeline is ProcessingPipelines.VIDEO]
    assert not of_video.ran
    assert "'video' is not there" in of_video.reason


def test_an_obstacle_of_video_is_in_words() -> None:
    facts = {"session_type": "run training", "complete": True, "prepared": True, "archived": False, "excluded": ""}
    facts |= {"pipelines": {name: {"status": "succeeded"} for name in ("CHECKSUM", "PREPARATION")}}
    assert obstacle(ProcessingPipelines.VIDEO, {**facts, "video_problem": "no."}) == "no"
    assert obstacle(ProcessingPipelines.VIDEO, {**facts, "video_problem": ""}) == ""


@pytest.mark.slow
async def test_a_new_result_takes_the_place_of_the_old_one_once_every_camera_is_done(paths: SessionPaths) -> None:
    assert (await run(paths)).succeeded
    folder, record = paths.processed_data / "camera_data", paths.tracking_data / "results" / "VIDEO.json"

    def there() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.glob("*_camera_[mv]*")}

    old, movie, recorded = there(), of(paths, "left").read_bytes(), record.read_bytes()
    of(paths, "left").write_bytes(movie[:5000])
    assert not (await run(paths, components=3, reprocess=True)).succeeded
    assert (there(), record.read_bytes()) == (old, recorded)
    of(paths, "left").write_bytes(movie)
    report = await run(paths, components=3)
    assert report.succeeded, report.sentence
    assert [(job.name, job.attempts) for job in report.jobs[:-1]] == [("face", 1), ("left", 2)]
    assert report.jobs[-1].name == "publish"
    assert there().keys() == old.keys()
    assert {path.name: path.read_bytes() for path in (folder / "previous").iterdir()} == old
    assert "component_4" not in pl.read_ipc(folder / "face_camera_motion.feather").columns
    outputs = {output["path"]: output["xxh3_128"] for output in json.loads(record.read_bytes())["outputs"]}
    assert outputs == {f"processed_data/camera_data/{n}": xxhash.xxh3_128_hexdigest(c) for n, c in there().items()}
    assert not (folder / "next").exists()
