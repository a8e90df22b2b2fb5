"""A processed session for tests of forging: tables as the lab's extractor wrote them, and suite2p's files, planted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from trackers.layout import SessionPaths, Volumes
from trackers.names import ProcessingPipelines
from trackers.tracker import ProcessingTracker

FIXTURE = Path(__file__).parent / "data" / "behavior"
SESSION = "2025-08-26-18-30-15-123456"
PROJECT = "ExampleProject"
VOLUMES, RATE = 250, 10.0  # as the fixture's frame signal has pulses, Hz
EXPERIMENT, RUN, LICK = "mesoscope experiment", "run training", "lick training"
_ONLY_EXPERIMENTS = (
    "trial",
    "vr_cue",
    "vr_reward_zone",
    "mesoscope_frame",
    "guidance_state",
    "reward_visibility_state",
)
_NOT_IN = {
    EXPERIMENT: (),
    RUN: (*_ONLY_EXPERIMENTS, "break", "torque", "screen"),
    LICK: (*_ONLY_EXPERIMENTS, "break", "encoder", "screen"),
}
_CALIBRATION = {
    "break": ("minimum_break_strength", "maximum_break_strength"),
    "encoder": ("cm_per_pulse",),
    "torque": ("torque_per_adc_unit",),
    "screen": ("screens_initially_on",),
    "mesoscope_frame": ("recorded_mesoscope_ttl",),
}  # in hardware_state.yaml; null where the module was not used
SURGERY = {
    "subject": {
        "id": 305,
        "ear_punch": "left 1",
        "sex": "F",
        "genotype": "WT",
        "date_of_birth_us": 1735689600000001,
        "weight_g": 20.5,
        "cage": 4401,
        "location_housed": "room 1",
        "status": "alive",
    },
    "procedure": {"surgery_start_us": 1749546000000000, "surgeon": "experimenter", "protocol": "0000-0000"},
    "drugs": {"ketoprofen_volume_ml": 0.1, "ketoprofen_code": "KET-1"},
    "implants": [{"implant": "window", "implant_target": "CA1", "implant_code": "WIN-3"}],
    "injections": [{"injection": "indicator", "injection_target": "CA1", "injection_volume_nl": 250.0}],
}
DESCRIPTOR = {
    "experimenter": "Doe, Jane",
    "mouse_weight_g": 21.4,
    "incomplete": False,
    "experimenter_notes": "Ran well.",
}


def plant(
    root: Path, kind: str = EXPERIMENT, animal: str = "305", session: str = SESSION, *, seed: int = 1
) -> SessionPaths:
    """Write a session with everything that its type has; return its places."""
    volumes = Volumes(root / "storage", root / "working")
    paths = SessionPaths(volumes, PROJECT, animal, session)
    paths.raw_data.mkdir(parents=True)
    data = yaml.safe_load((FIXTURE / "raw_data/session_data.yaml").read_text())
    data |= {"animal_id": animal, "session_name": session, "session_type": kind}
    data |= {} if kind == EXPERIMENT else {"experiment_name": None}
    described = {"session_data": data, "surgery_metadata": SURGERY, "session_descriptor": DESCRIPTOR}
    for name, content in described.items():
        (paths.raw_data / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    hardware = yaml.safe_load((FIXTURE / "raw_data/hardware_state.yaml").read_text())
    unused = dict.fromkeys(key for module in _NOT_IN[kind] for key in _CALIBRATION.get(module, ()))
    (paths.raw_data / "hardware_state.yaml").write_text(yaml.safe_dump(hardware | unused))
    (paths.raw_data / "telomere.bin").touch()
    shutil.copytree(FIXTURE / "processed_data", paths.processed_data)
    for name in _NOT_IN[kind]:
        (paths.processed_data / f"behavior_data/{name}_data.feather").unlink()
    rng = np.random.default_rng(seed)
    if kind == EXPERIMENT:
        shutil.copy(FIXTURE / "raw_data/experiment_configuration.yaml", paths.raw_data)
        for plane in range(2):
            plant_plane(paths.processed_data / f"mesoscope_data/plane{plane}", plane, 7 + plane, rng)
    plant_cameras(paths.processed_data / "camera_data", rng)
    return paths


def plant_plane(folder: Path, number: int, rois: int, rng: Any, volumes: int = VOLUMES, rate: float = RATE) -> None:
    """Write one plane of suite2p's output: every third ROI is no cell."""
    folder.mkdir(parents=True)
    stat = []
    for roi in range(rois):
        y, x = (grid.ravel() for grid in np.mgrid[5 + 3 * roi : 12 + 3 * roi, 5 + 2 * roi : 10 + 2 * roi])
        weights = rng.random(len(y)).astype(np.float32)
        stat.append({"ypix": y, "xpix": x, "lam": weights, "med": [float(np.median(y)), float(np.median(x))]})
    np.save(folder / "stat.npy", np.array(stat, dtype=object))
    for name in ("F", "Fneu", "spks"):
        np.save(folder / f"{name}.npy", rng.random((rois, volumes), dtype=np.float32) * 100)
    np.save(folder / "iscell.npy", np.stack((np.arange(rois) % 3 > 0, rng.random(rois)), axis=1))
    db = {"nplanes": 1, "nrois": 2, "iplane": 0, "iroi": number, "nframes": volumes}
    shifts = {name: rng.integers(-3, 4, volumes).astype(np.int32) for name in ("yoff", "xoff")}
    registered = {**shifts, "meanImg": rng.random((64, 48), dtype=np.float32)}
    for name, content in (("db", db), ("settings", {"fs": rate}), ("reg_outputs", registered)):
        np.save(folder / f"{name}.npy", np.array(content, dtype=object))


def plant_cameras(folder: Path, rng: Any) -> None:
    """Write motion of the face camera and pose of the left one; the right one has neither."""
    for camera, columns in (
        ("face", ("motion_energy", "component_1", "component_2")),
        (
            "left",
            (
                "nose_x",
                "nose_y",
                "nose_likelihood",
                "tail_x",
                "tail_y",
                "tail_likelihood",
                "tail_x_filtered",
                "tail_y_filtered",
            ),
        ),
    ):
        times = pl.read_ipc(folder / f"{camera}_camera_timestamps.feather")["frame_time_us"]
        values = {name: rng.random(len(times)) for name in columns}
        kind = "motion" if camera == "face" else "pose"
        frames = {"frame": np.arange(len(times), dtype=np.uint32), "time_us": times}
        pl.DataFrame({**frames, **values}).write_ipc(folder / f"{camera}_camera_{kind}.feather")


def plant_multiday(folder: Path) -> None:
    """Write multi-day's output of an animal: two cells of plane 0, of which one was not found today, one of plane 1."""
    columns = ("cell", "session", "plane", "roi", "status")
    rows = [
        (0, SESSION, 0, 1, "tracked"),
        (0, "another day", 0, 3, "tracked"),
        (1, "another day", 0, 5, "tracked"),
        (-1, SESSION, 0, 2, "uncertain"),
        (0, SESSION, 1, 4, "tracked"),
        (0, "another day", 1, 4, "tracked"),
    ]
    rng = np.random.default_rng(3)
    for plane, cells in ((0, 2), (1, 1)):
        place = folder / SESSION / f"plane{plane}"
        place.mkdir(parents=True)
        for name in ("F", "Fneu", "spks"):
            np.save(place / f"{name}.npy", rng.random((cells, VOLUMES), dtype=np.float32))
    pl.DataFrame(rows, schema=list(columns), orient="row").write_ipc(folder / "cells.feather")


def mark_done(paths: SessionPaths, *pipelines: ProcessingPipelines) -> None:
    """Let trackers say that a session's pipelines have succeeded, and its source data lie where jobs look for it."""
    shutil.copytree(paths.raw_data, paths.source_data)
    for pipeline in (ProcessingPipelines.CHECKSUM, ProcessingPipelines.PREPARATION, *pipelines):
        tracker = ProcessingTracker(paths.tracker(pipeline))
        tracker.start(1)
        tracker.stop(1)
