"""Tables of a forged session: what falls into a frame, which trial it is in, and what is not known stays empty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from jobs import forging_behavior as behavior
from jobs.forging_frames import VolumeClock
from jobs.forging_sources import collect
from jobs.forging_table import cells, session_table
from tests.forging_session import LICK, RUN, VOLUMES, plant, plant_plane
from trackers.errors import BadInputError, SessionDataError
from trackers.forging_settings import ForgingSettings
from trackers.layout import SessionPaths

START = 1_756_233_015_000_000


def encoder(*rows: tuple[int, float]) -> dict[str, pl.DataFrame]:
    times, distances = zip(*rows, strict=True)
    table = pl.DataFrame({"time_us": np.array(times, np.uint64), "traveled_distance_cm": np.array(distances, float)})
    return {"behavior_data/encoder_data": table}


@pytest.fixture
def paths(tmp_path: Path) -> SessionPaths:
    return plant(tmp_path)


def clock(paths: SessionPaths) -> VolumeClock:
    signal = collect(paths).tables["behavior_data/mesoscope_frame_data"]
    return VolumeClock(signal.filter(pl.col("ttl_state") == 1)["time_us"].cast(pl.Int64).to_numpy())


def test_the_table_has_a_row_for_each_volume_with_the_activity_of_the_accepted_rois(paths: SessionPaths) -> None:
    sources = collect(paths)
    table, found = session_table(sources, clock(paths)), cells(sources)
    assert len(table) == VOLUMES
    folder = paths.processed_data / "mesoscope_data"
    for name, file in (("fluorescence", "F"), ("neuropil", "Fneu"), ("deconvolved", "spks")):
        values = table[name].to_numpy()
        for cell, plane, roi in found.select("cell", "plane", "roi").iter_rows():
            assert (values[:, cell] == np.load(folder / f"plane{plane}/{file}.npy")[roi]).all()
    assert found.select("plane", "roi").rows() == [
        (0, 1),
        (0, 2),
        (0, 4),
        (0, 5),
        (1, 1),
        (1, 2),
        (1, 4),
        (1, 5),
        (1, 7),
    ]


def test_every_lick_and_every_reward_between_first_and_last_frame_is_in_one_row(paths: SessionPaths) -> None:
    sources, times = collect(paths), clock(paths).times
    table = session_table(sources, clock(paths))
    end = times[-1] + int(np.median(np.diff(times)))
    licks, rewards = behavior.licks(sources.tables), behavior.rewards(sources.tables)
    assert licks is not None
    assert rewards is not None
    assert table["licks"].sum() == ((licks[0] >= times[0]) & (licks[0] < end)).sum()
    inside = (rewards[0] >= times[0]) & (rewards[0] < end)
    assert table["water_uL"].sum() == pytest.approx(rewards[1][inside].sum())


def test_states_and_distance_are_those_at_the_onset(paths: SessionPaths) -> None:
    table, source = session_table(collect(paths), clock(paths)), "behavior_data/encoder_data.feather"
    encoder_rows = pl.read_ipc(paths.processed_data / source).rows()
    for time, distance in table.select("time_us", "distance_cm").rows()[::25]:
        assert distance == [d for t, d in encoder_rows if t <= time][-1]


def test_a_frame_before_the_first_message_has_no_state() -> None:
    channel = (np.array([START]), np.array([1], np.uint8))
    assert np.isnan(behavior.held(channel, np.array([START - 1]))).all()
    assert behavior.held(channel, np.array([START, START + 5])).tolist() == [1.0, 1.0]


def test_after_a_camera_has_stopped_frames_have_no_motion_and_no_pose(paths: SessionPaths) -> None:
    table, sources = session_table(collect(paths), clock(paths)), collect(paths)
    for camera, column in ((sources.cameras[0], "face_motion_energy"), (sources.cameras[1], "left_nose_x")):
        late = table.filter(pl.col("time_us") > int(camera.times[-1]))
        assert len(late)
        assert late[column].null_count() == len(late)


@pytest.mark.parametrize("kind", [RUN, LICK])
def test_a_session_without_imaging_has_a_row_every_100_ms(tmp_path: Path, kind: str) -> None:
    table = session_table(collect(plant(tmp_path, kind)), None)
    assert table["time_us"].diff().drop_nulls().unique().to_list() == [100_000]
    assert "fluorescence" not in table.columns
    assert ("distance_cm" in table.columns) == (kind == RUN)


def test_a_trial_begins_where_the_animal_comes_to_it_and_the_last_one_is_not_completed() -> None:
    tables = encoder((START, 0.0), (START + 10, 150.0), (START + 20, 210.0), (START + 30, 190.0), (START + 40, 300.0))
    starts = {"trial_type_index": [0, 1, 0, 1], "traveled_distance_cm": [0.0, 200.0, 280.0, 480.0]}
    tables["behavior_data/trial_data"] = pl.DataFrame(starts)
    structures = {"trial_structures": {"a": {"trial_length_cm": 200.0}, "b": {"trial_length_cm": 100.0}}}
    found = behavior.trials(tables, structures)
    assert found is not None
    assert found["start_us"].to_list() == [START, START + 20, START + 40]
    assert found["stop_us"].to_list() == [START + 20, START + 40, START + 40]
    assert found["trial_type"].to_list() == ["a", "b", "a"]
    assert found["completed"].to_list() == [True, False, False]  # a restart broke the second one off


def test_speed_is_the_distance_gained_around_a_time() -> None:
    rows = [(START + 10_000 * n, 0.1 * n) for n in range(200)]
    found = behavior.speed(encoder(*rows))
    assert found is not None
    assert found[1][5:-5] == pytest.approx(10.0)  # 0.1 cm every 10 ms


def test_a_lick_lasts_while_the_sensor_says_so_whatever_its_voltage_does() -> None:
    table = {
        "time_us": [10, 20, 30, 40, 50],
        "voltage_12_bit_adc": [0, 500, 700, 0, 600],
        "lick_state": [0, 1, 1, 0, 1],
    }
    found = behavior.licks({"behavior_data/lick_data": pl.DataFrame(table)})
    assert found is not None
    assert [times.tolist() for times in found] == [[20, 50], [40, 50]]


def test_what_is_not_there_is_listed(paths: SessionPaths) -> None:
    (paths.processed_data / "behavior_data/lick_data.feather").unlink()
    (paths.raw_data / "surgery_metadata.yaml").unlink()
    sources = collect(paths)
    assert "behavior_data/lick_data is not there" in sources.missing
    assert "raw_data/surgery_metadata.yaml is not there" in sources.missing
    assert "licks" not in session_table(sources, clock(paths)).columns


def test_camera_frames_without_a_time_are_left_out_and_listed(paths: SessionPaths) -> None:
    path = paths.processed_data / "camera_data/face_camera_motion.feather"
    motion = pl.read_ipc(path)
    late = pl.when(pl.col("frame") < len(motion) - 2).then(pl.col("time_us"))
    motion.with_columns(time_us=late).write_ipc(path)
    sources = collect(paths)
    assert "camera_data/face_camera_motion: 2 frames have no time, and are left out" in sources.missing
    assert session_table(sources, clock(paths))["face_motion_energy"].count()


def test_an_archived_session_is_read_from_its_archive(paths: SessionPaths) -> None:
    before = collect(paths)
    paths.processed_data.rename(paths.archived_data)
    assert collect(paths).tables.keys() == before.tables.keys()


def test_a_plane_without_rois_is_a_plane(paths: SessionPaths) -> None:
    folder = paths.processed_data / "mesoscope_data/plane2"
    plant_plane(folder, 2, 3, np.random.default_rng(2))
    for name in ("iscell", "F", "Fneu", "spks"):
        (folder / f"{name}.npy").unlink()
    assert [len(plane.stat) for plane in collect(paths).planes] == [7, 8, 0]


def test_a_plane_whose_files_do_not_go_together_is_refused(paths: SessionPaths) -> None:
    np.save(paths.processed_data / "mesoscope_data/plane1/F.npy", np.zeros((3, VOLUMES), np.float32))
    with pytest.raises(SessionDataError, match=r"plane1 is no output of suite2p .*\(3, 250\)"):
        collect(paths)


def test_without_a_species_the_refusal_names_the_file_to_write() -> None:
    said = r"Write it to /data/P/settings/project.yaml, e.g. `forging: \{species: Mus musculus\}`"
    with pytest.raises(BadInputError, match=said):
        ForgingSettings.from_json({}, "/data/P/settings/project.yaml")


@pytest.mark.parametrize("settings", [{"species": "mouse"}, {"species": "Mus musculus", "colour": "blue"}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(BadInputError, match=r"mouse|colour"):
        ForgingSettings.from_json(settings, "forging.yaml")
