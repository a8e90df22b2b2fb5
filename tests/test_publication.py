"""A new result takes the old one's place once it is whole; until then the old one is there, and counts."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import xxhash

from flows.eligibility import done, obstacle, usable
from flows.project_grid import grid
from flows.terminal import status_table
from tasks.reports import SessionOutcome
from tests.conftest import SESSION, Side, all_ended
from tests.test_cli import sessionflow
from trackers.curation import edited
from trackers.names import ProcessingPipelines as P
from trackers.publication import PUBLISH, Publication, of_animal, of_session
from trackers.site import Site
from trackers.targets import Target

FILES = ("cells.feather", "registration.npz", f"{SESSION}/F.npy")


def results(folder: Path, text: str) -> None:
    """Write a multi-day result."""
    (folder / SESSION).mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text(text)


@pytest.mark.parametrize("interrupted", range(12))
def test_a_result_takes_its_place_wherever_that_was_interrupted(
    tmp_path: Path, interrupted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dataset_lock.yaml").write_text("not a result")
    for place, text in (("", "old"), ("next", "new"), ("previous", "older")):
        results(tmp_path / place, text)
    left, rename = [interrupted], Path.rename

    def failing(path: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            raise OSError("the power is gone")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    publication = of_animal(tmp_path)
    with contextlib.suppress(OSError):
        publication.publish()
    monkeypatch.setattr(Path, "rename", rename)
    assert publication.publish() is (interrupted == 1)
    for name in FILES:
        assert (tmp_path / name).read_text() == "new"
        assert (tmp_path / "previous" / name).read_text() == "old"
    kept = {"cells.feather", "registration.npz", SESSION, "previous", "dataset_lock.yaml", ".publication.lock"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_the_first_result_has_none_before_it(tmp_path: Path) -> None:
    results(tmp_path / "next", "new")
    assert of_animal(tmp_path).publish()
    assert not (tmp_path / "previous").exists()
    assert of_animal(tmp_path).discard_previous() is None


class Published:
    """A session whose suite2p result is in place and recorded, and runs on it that say how they went."""

    def __init__(self, side: Side) -> None:
        self.side = side
        side.take_lock()
        self.target = Target(
            Site.from_json(side.arguments["site"]), *(side.arguments[k] for k in ("project", "animal", "session"))
        )
        self.place = of_session(self.target.paths.processed_data, P.SUITE2P)
        self.cells = self.place.directory / "plane0" / "iscell.npy"
        self.cells.parent.mkdir(parents=True)
        self.cells.write_bytes(b"old")
        self.ran("true")
        record = self.target.result(P.SUITE2P)
        output = {"path": "processed_data/mesoscope_data/plane0/iscell.npy", "size": 3}
        output["xxh3_128"] = xxhash.xxh3_128_hexdigest(b"old")
        record.write_text(json.dumps({**json.loads(record.read_text()), "outputs": [output]}))

    def ran(self, *words: str, beside: bool = False, wait: bool = True, **arguments: Any) -> dict[str, Any]:
        """Run jobs of suite2p one after the other, the last one being the publication where the result is beside."""
        names = [f"job-{n}" for n in range(len(words))]
        if beside:
            names[-1] = PUBLISH
        stages = [[(name, text)] for name, text in zip(names, words, strict=True)]
        view = self.side.submit(*stages, pipeline="SUITE2P", reprocess=True, **arguments)
        if wait:
            view = self.side.wait(view, all_ended)
            self.side.get("finish", pipeline="SUITE2P", number=view["number"])
        return view

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the session, as if the pipelines before had succeeded."""
        facts: dict[str, Any] = self.side.get("describe")
        for name in ("CHECKSUM", "PREPARATION", "BEHAVIOR", "VIDEO"):
            facts["pipelines"][name]["status"] = "succeeded"
            facts["pipelines"][name].pop("usable")
        return {**facts, "prepared": True, "session_type": "mesoscope experiment"}


@pytest.fixture
def published(side: Side) -> Published:
    return Published(side)


def test_after_a_run_beside_it_failed_a_result_is_there_for_those_who_read_it(published: Published) -> None:
    before = published.target.result(P.SUITE2P).read_bytes()
    published.ran("false", "true", beside=True)
    facts = published.facts
    assert facts["pipelines"]["SUITE2P"]["status"] == "failed"
    assert usable(P.SUITE2P, facts)
    assert [obstacle(p, facts) for p in (P.FORGING, P.MULTIDAY)] == ["", ""]
    assert "nothing to show" not in obstacle(P.REPORT, facts)
    assert not done(P.SUITE2P, facts)  # what failed is continued
    assert published.target.result(P.SUITE2P).read_bytes() == before


def test_status_says_that_the_old_result_counts_after_a_run_beside_it_failed(published: Published) -> None:
    made = json.loads(published.target.result(P.SUITE2P).read_text())["ended"][:10]
    published.ran("false", "true", beside=True)
    facts = published.facts
    said = f"failed {facts['pipelines']['SUITE2P']['ended'][:10]}; the result of {made} counts"
    row = {**facts, "animal": "305", "session": SESSION, "problem": "", "notes": ""}
    assert said in " ".join(status_table("Project", [row], notes=False).split())
    assert f"; the result of {made} counts" in grid("Project", [(row, SessionOutcome("305", SESSION, "waiting", ""))])


def test_status_does_not_say_so_after_a_run_in_its_place_failed(published: Published) -> None:
    published.ran("false")
    assert not published.facts["pipelines"]["SUITE2P"].get("counts")


def test_after_a_run_in_its_place_failed_a_result_is_none(published: Published) -> None:
    published.ran("false")
    published.ran("false", "true", beside=True)
    assert not usable(P.SUITE2P, published.facts)
    assert obstacle(P.MULTIDAY, published.facts) == "run suite2p first"


def test_a_result_whose_successor_began_to_take_its_place_is_not_taken_for_whole(published: Published) -> None:
    published.ran("true", "false", beside=True)
    assert not usable(P.SUITE2P, published.facts)


def test_a_run_beside_it_that_was_cancelled_leaves_a_success(published: Published) -> None:
    view = published.ran("sleep 60", "true", beside=True, wait=False)
    assert published.side.get("cancel_all")["ended"] == [f"suite2p/{view['number']:04d}"]
    facts = published.facts
    record = json.loads(published.target.result(P.SUITE2P).read_text())
    assert done(P.SUITE2P, facts) == f"done already, on {record['ended'][:16].replace('T', ' ')} UTC"


def test_a_failed_run_with_settings_of_its_own_does_not_undo_what_is_done(published: Published) -> None:
    published.ran("false", "true", beside=True, settings={"settings": {"tau": 0.3}, "this_run": {"tau": 0.3}})
    assert "a run with settings of its own has failed since" in done(P.SUITE2P, published.facts)


def test_what_people_edit_after_a_failure_beside_it_stops_the_run_that_goes_on(published: Published) -> None:
    view = published.ran("false", "true", beside=True)
    published.cells.write_bytes(b"own")
    name = "processed_data/mesoscope_data/plane0/iscell.npy"
    assert edited(published.target, P.SUITE2P) == [name]
    graph = [{"name": "s", "jobs": [{"name": "job", "command": ["true"], "resources": {}}]}]
    words = {"pipeline": "SUITE2P", "graph": graph, "manager_id": published.side.manager_id}
    assert f"edited since it wrote them: {name}" in str(published.side.ask("submit", **words)["error"])
    again = published.side.get("submit", **words, discard_curation=True)
    assert again["number"] == view["number"]
    published.side.wait(again, all_ended)


def test_discarding_previous_results_says_what_that_frees(published: Published, tmp_path: Path) -> None:
    (published.place.next / "plane0").mkdir(parents=True)
    assert published.place.publish()
    old = published.place.previous / "plane0" / "iscell.npy"
    assert old.read_bytes() == b"old"
    roots = ("--storage", str(tmp_path / "storage"), "--working", str(tmp_path / "working"))
    name = f"Project/305/{SESSION}"
    done = sessionflow("discard-previous", name, "--pipeline", "video", *roots)
    assert (done.returncode, done.stdout) == (0, f"{name} has no previous result of video.\n")
    done = sessionflow("discard-previous", name, *roots)
    assert (done.returncode, done.stdout) == (0, f"suite2p: {old.parents[1]} removed, 3 B freed.\n")
    assert not old.exists()
    assert (published.place.directory / "plane0").is_dir()


def test_a_result_is_what_its_patterns_name(tmp_path: Path) -> None:
    for name in ("face_camera_timestamps.feather", "face_camera_pose.feather", "next/face_camera_motion.feather"):
        path = tmp_path / "camera_data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    publication: Publication = of_session(tmp_path, P.VIDEO)
    publication.publish()
    there = {path.name for path in publication.directory.iterdir() if not path.name.startswith(".")}
    assert there == {"face_camera_timestamps.feather", "face_camera_motion.feather", "previous"}
    assert [path.name for path in publication.previous.iterdir()] == ["face_camera_pose.feather"]
