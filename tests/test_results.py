"""A result against today: what makes it stale, and what people changed of it since it was recorded."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import xxhash

from flows.eligibility import done, quality_objection, stale
from jobs.hashing import digests
from jobs.moving import check_against_records
from tests.conftest import SESSION, Side, all_ended, make_session
from trackers.curation import curated, edited
from trackers.errors import JobFailedError
from trackers.facts import describe
from trackers.layout import Volumes
from trackers.names import ProcessingPipelines as P
from trackers.site import Site
from trackers.stale import staleness
from trackers.targets import Target
from trackers.tracker import TrackerState

FILES = ("F.npy", "iscell.npy", "stat.npy")


class Result:
    """A session whose suite2p has succeeded, with its record."""

    def __init__(self, root: Path) -> None:
        make_session(root, kind="mesoscope experiment")
        self.target = Target(Site(Volumes(root, root)), "Project", "305", SESSION)
        self.target.tracker(P.SUITE2P).set_state(TrackerState(complete=True))
        self.plane = self.target.paths.processed_data / "mesoscope_data" / "plane0"
        self.plane.mkdir(parents=True)
        for name in FILES:
            (self.plane / name).write_bytes(name.encode() * 8)
            os.utime(self.plane / name, (1e9, 1e9))
        self.checksum = self.target.paths.raw_data / "ax_checksum.txt"
        self.checksum.write_text("aa")
        self.record(settings={"planes": None, "settings": {"tau": 0.7}})

    def record(self, **changes: Any) -> None:
        """Write the result record."""
        outputs = [
            {
                "path": f"processed_data/mesoscope_data/plane0/{name}",
                "size": (self.plane / name).stat().st_size,
                "xxh3_128": xxhash.xxh3_128_hexdigest((self.plane / name).read_bytes()),
            }
            for name in FILES
        ]
        known = {"pipeline": "SUITE2P", "submission": "suite2p/0001", "outputs": outputs}
        known |= {"opened": "2025-09-01T11:00:00+00:00", "ended": "2025-09-01T12:00:00+00:00"}
        known |= {"inputs": {"raw_data_checksum": "aa"}, "versions": {"python": "3.0"}}
        path = self.target.result(P.SUITE2P)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**known, **changes}))

    def says(self, text: str) -> None:
        """Write the project's settings."""
        path = self.target.project_paths.directory / "settings" / "project.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    @property
    def stale(self) -> str:
        """Why it is stale."""
        return stale(P.SUITE2P, describe(self.target))


@pytest.fixture
def result(tmp_path: Path) -> Result:
    found = Result(tmp_path)
    found.says("suite2p: {tau: 0.7}")
    return found


def test_a_result_of_todays_settings_and_data_is_not_stale(result: Result) -> None:
    assert result.stale == ""


def test_a_setting_that_changed_is_named_and_nothing_is_rerun_for_it(result: Result) -> None:
    result.says("suite2p: {detection.nbins: 4000}")
    assert result.stale == "because detection.nbins is 4000 and was 5000; tau is 1.0 and was 0.7"
    assert done(P.SUITE2P, describe(result.target)).endswith(f"stale, {result.stale}")


def test_what_one_run_was_told_is_no_reason(result: Result) -> None:
    result.record(settings={"settings": {"tau": 0.3}, "this_run": {"tau": 0.3}})
    assert result.stale == ""


def test_raw_data_with_another_checksum_makes_it_stale(result: Result) -> None:
    result.checksum.write_text("bb")
    assert result.stale == "because the checksum of the raw data is bb and was aa"


def test_a_dataset_is_stale_when_a_result_it_was_made_of_is_newer(result: Result, tmp_path: Path) -> None:
    dataset = Target(Site(result.target.site.volumes, datasets=tmp_path / "ada"), "Project", dataset="learning")
    record = {"settings": {"sessions": [f"305/{SESSION}"]}, "opened": "2025-09-01T11:30:00+00:00"}
    path = dataset.result(P.FORGING)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    dataset.tracker(P.FORGING).set_state(TrackerState(complete=True))
    from trackers.facts import pipeline_facts

    assert pipeline_facts(dataset, P.FORGING)["stale"] == f"because the result of suite2p of 305/{SESSION} is newer"


def test_a_dataset_is_stale_when_people_have_chosen_other_cells_since(result: Result, tmp_path: Path) -> None:
    dataset = Target(Site(result.target.site.volumes, datasets=tmp_path / "ada"), "Project", dataset="learning")
    record = {"settings": {"sessions": [f"305/{SESSION}"]}, "opened": "2025-09-01T12:30:00+00:00"}
    path, cells = dataset.result(P.FORGING), result.plane / "iscell.npy"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))

    def said() -> str:
        return staleness(dataset, P.FORGING, None, None)

    cells.touch()  # the same cells
    assert said() == ""
    cells.write_bytes(b"mine")
    assert said() == f"because people have chosen other cells of 305/{SESSION} since"
    before = datetime(2025, 9, 1, 12, 15, tzinfo=UTC).timestamp()  # after suite2p, and before the dataset
    os.utime(cells, (before, before))
    assert said() == ""


def forged(result: Result, root: Path, **settings: Any) -> Target:
    """Return a dataset that was forged of the session after suite2p, with these settings."""
    dataset = Target(Site(result.target.site.volumes, datasets=root / "ada"), "Project", dataset="learning")
    record = {"settings": {"sessions": [f"305/{SESSION}"], **settings}, "opened": "2025-09-01T12:30:00+00:00"}
    path = dataset.result(P.FORGING)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    return dataset


def test_a_dataset_is_stale_when_the_cells_of_its_animal_were_tracked_since(result: Result, tmp_path: Path) -> None:
    result.says("")
    dataset = forged(result, tmp_path)
    tracking = Target(dataset.site, "Project", "305", dataset="learning").result(P.MULTIDAY)
    tracking.parent.mkdir(parents=True)
    tracking.write_text(json.dumps({"ended": "2025-09-01T12:15:00+00:00"}))
    assert staleness(dataset, P.FORGING, None, None) == ""
    tracking.write_text(json.dumps({"ended": "2025-09-01T12:45:00+00:00"}))
    assert staleness(dataset, P.FORGING, None, None) == "because the result of multiday of 305 is newer"


def test_a_dataset_is_stale_when_the_project_says_otherwise_now_of_what_no_option_said(
    result: Result, tmp_path: Path
) -> None:
    result.says("forging: {species: Mus musculus, lab: ours}")
    dataset = forged(
        result, tmp_path, species="Rattus norvegicus", lab="ours", this_run={"species": "Rattus norvegicus"}
    )
    assert staleness(dataset, P.FORGING, None, None) == ""
    result.says("forging: {species: Mus musculus, lab: theirs, institution: there}")
    assert staleness(dataset, P.FORGING, None, None) == (
        'because institution is "there" and was ""; lab is "theirs" and was "ours"'
    )


def test_a_page_shows_the_cells_that_people_chose_since(result: Result) -> None:
    result.target.tracker(P.REPORT).set_state(TrackerState(complete=True))

    def page() -> dict[str, Any]:
        facts = describe(result.target)
        facts["pipelines"]["REPORT"]["ended"] = "2025-09-01T13:00:00+00:00"
        return {**facts, "quality_objection": ""}

    assert done(P.REPORT, page())
    (result.plane / "iscell.npy").write_bytes(b"mine")
    assert not done(P.REPORT, page())
    assert quality_objection(page()) == "its quality control is older than its results: run its report again"


def test_files_that_people_edited_are_found_by_their_contents(result: Result) -> None:
    assert edited(result.target, P.SUITE2P) == []
    path = result.plane / "iscell.npy"
    path.write_bytes(b"iscell.NPY" * 8)
    os.utime(path, (1e9, 1e9))  # copied back with its old time
    assert edited(result.target, P.SUITE2P) == ["processed_data/mesoscope_data/plane0/iscell.npy"]


def test_a_file_that_was_only_touched_was_not_edited(result: Result) -> None:
    (result.plane / "F.npy").touch()
    assert edited(result.target, P.SUITE2P) == []


def test_traces_alone_are_damaged_and_with_outlines_a_person_drew_them() -> None:
    assert curated(["plane0/F.npy", "plane1/iscell.npy"]) == ["plane1/iscell.npy"]
    assert curated(["plane0/F.npy", "plane0/stat.npy"]) == ["plane0/F.npy", "plane0/stat.npy"]


def test_archiving_takes_curated_cells_and_refuses_damaged_traces(result: Result) -> None:
    processed = result.target.paths.processed_data
    names = [f"mesoscope_data/plane0/{name}" for name in FILES]
    (result.plane / "iscell.npy").write_bytes(b"mine")
    assert check_against_records(result.target.paths, digests(processed, names)) == [
        "processed_data/mesoscope_data/plane0/iscell.npy"
    ]
    (result.plane / "F.npy").write_bytes(b"damaged")
    with pytest.raises(JobFailedError, match=r"1 have other contents: .*F\.npy"):
        check_against_records(result.target.paths, digests(processed, names))


def test_a_run_that_would_replace_edited_files_is_refused_with_their_names_unless_told_to(side: Side) -> None:
    side.take_lock()
    view = side.wait(side.submit([("job", "true")]), all_ended)
    side.get("finish", pipeline="BEHAVIOR", number=view["number"])
    record = next(side.root.rglob("results/BEHAVIOR.json"))
    table = side.root / "working" / "Project" / "305" / SESSION / "processed_data" / "behavior_data" / "lick.feather"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("edited")
    name = "processed_data/behavior_data/lick.feather"
    outputs = [{"path": name, "size": 6, "xxh3_128": xxhash.xxh3_128_hexdigest(b"before")}]
    record.write_text(json.dumps({**json.loads(record.read_text()), "outputs": outputs}))
    graph = [{"name": "s", "jobs": [{"name": "job", "command": ["true"], "resources": {}}]}]
    words = {"pipeline": "BEHAVIOR", "graph": graph, "manager_id": side.manager_id, "reprocess": True}
    refusal = side.ask("submit", **words)["error"]
    assert f"files that people have edited since it wrote them: {name}. Nothing was submitted." in str(refusal)
    assert side.get("submit", **words, discard_curation=True)["number"] == 2
