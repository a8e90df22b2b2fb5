"""Everything that is forged from one session: its descriptions, and what the pipelines made of its recordings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs import forging_behavior as behavior
from jobs.forging_frames import Imaging
from jobs.forging_multiday import Tracked
from jobs.forging_subject import Animal, animal
from jobs.modules import MODULES
from trackers.errors import SessionDataError, SessionflowError
from trackers.files import load_yaml
from trackers.layout import SessionPaths
from trackers.names import SessionTypes, session_time
from trackers.session import SessionData, load_session

Array = NDArray[Any]

DESCRIPTIONS = (
    *("session_descriptor", "hardware_state", "experiment_configuration", "surgery_metadata"),
    *("mesoscope_positions", "zaber_positions"),
)
CAMERAS = ("face", "left", "right")
TABLES = (
    behavior.DISTANCE.table,
    *dict.fromkeys(channel.table for channel in behavior.CHANNELS),
    *(f"behavior_data/{name}" for name in ("trial_data", "vr_cue_data", "vr_reward_zone_data")),
)
IMAGING = "mesoscope_data"
_OF_EXPERIMENTS = frozenset(
    {
        *("experiment_configuration", "mesoscope_positions", behavior.FRAME_SIGNAL.table, behavior.GUIDANCE.table),
        *(behavior.VISIBILITY.table, "behavior_data/trial_data", "behavior_data/vr_cue_data"),
        "behavior_data/vr_reward_zone_data",
    }
)


@dataclass(frozen=True)
class Plane:
    """One plane of suite2p's output; the first axis of its arrays are the ROIs, in suite2p's order.

    Attributes:
        number: of the plane's folder.
        z: which frame of a volume it was cut from.
        roi: which of the mesoscope's ROIs it is.
        rate: of volumes, Hz.
        z_planes: frames of a volume.
        stat: suite2p's description of each ROI.
        accepted: whether it is a cell, as iscell.npy says now, with whatever people changed in it.
        probability: that it is one, by the classifier.
        fluorescence, neuropil, deconvolved: (ROIs, volumes), float32.
        mean_image: (y, x), of the registered movie; None where it was not kept.
        shifts: (volumes, 2), y and x, pixels, by which each frame was moved; None where they were not kept.
        frames: how many volumes it has.
    """

    number: int
    z: int
    roi: int
    rate: float
    z_planes: int
    stat: list[dict[str, Any]]
    accepted: Array
    probability: Array
    fluorescence: Array
    neuropil: Array
    deconvolved: Array
    mean_image: Array | None
    shifts: Array | None
    frames: int


@dataclass(frozen=True)
class Camera:
    """What is known of one camera.

    Attributes:
        name: face, left or right.
        times: of its frames, µs UTC.
        motion: `frame`, `time_us`, `motion_energy`, `component_1` …; or None.
        pose: `frame`, `time_us`, and columns of each body part; or None.
        about: how motion or pose were made.
    """

    name: str
    times: Array
    motion: pl.DataFrame | None = None
    pose: pl.DataFrame | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sources:
    """What there is of a session.

    Attributes:
        descriptions: the YAML files in raw_data, by name without suffix; empty where one is missing.
        tables: behavior tables, by path below processed_data without suffix.
        missing: what was looked for and not found.
        notes: what people must know of what was taken, e.g. whose cells these are.
        tracked: its cells across days; None where multi-day processing has not run on it in the dataset.
        unused: tables of hardware that was not used, as hardware_state.yaml says; they are not missed.
    """

    paths: SessionPaths
    data: SessionData
    descriptions: Mapping[str, Mapping[str, Any]]
    tables: Mapping[str, pl.DataFrame]
    planes: tuple[Plane, ...]
    cameras: tuple[Camera, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...] = ()
    tracked: Tracked | None = None
    unused: frozenset[str] = frozenset()

    @cached_property
    def start_us(self) -> int:
        """The session's time, to which NWB's times are relative, µs UTC."""
        return round(session_time(self.paths.session).timestamp() * 1e6)

    @cached_property
    def animal(self) -> Animal:
        """What the descriptions say of the animal."""
        return animal(self.descriptions, session_time(self.paths.session))

    @property
    def imaging(self) -> Imaging | None:
        """What the imaging data says of its clock; None without."""
        if not self.planes:
            return None
        first = self.planes[0]
        return Imaging(min(plane.frames for plane in self.planes), first.rate, first.z_planes)

    @cached_property
    def trials(self) -> pl.DataFrame | None:
        """The trials that were begun; see `forging_behavior.trials`."""
        return behavior.trials(self.tables, self.descriptions["experiment_configuration"])


def collect(paths: SessionPaths, *, unfinished: bool = False) -> Sources:
    """Read a session's sources; large arrays are mapped, not read.

    Args:
        paths: of the session.
        unfinished: what lies in suite2p's place was left by a run that did not succeed, and is left out.

    Raises:
        SessionDataError: a file is there and cannot be read; nothing was written.
    """
    data = load_session(paths)
    missing: list[str] = []
    results = paths.results
    experiment = data.session_type is SessionTypes.MESOSCOPE_EXPERIMENT

    def expected(names: tuple[str, ...]) -> Iterator[str]:
        return (name for name in names if experiment or name not in _OF_EXPERIMENTS)

    descriptions: dict[str, Mapping[str, Any]] = {name: {} for name in DESCRIPTIONS}
    for name in expected(DESCRIPTIONS):
        try:
            descriptions[name] = load_yaml(paths.raw_data / f"{name}.yaml", "Restore it.")
        except FileNotFoundError:
            missing.append(f"raw_data/{name}.yaml is not there")
        except SessionflowError as error:
            raise SessionDataError(f"{error} Nothing was written.") from None
    missing += animal(descriptions, session_time(paths.session)).missing
    tables, unused = {}, _unused(descriptions["hardware_state"])
    for name in expected(TABLES):
        table = _table(results / f"{name}.feather")
        if table is None and name in unused:
            continue
        if table is None or table.is_empty():
            missing.append(f"{name} {'is not there' if table is None else 'has no rows'}")
        else:
            tables[name] = table
    planes = tuple(planes_in(results / IMAGING)) if experiment and not unfinished else ()
    if experiment and not planes:
        missing.append(f"{IMAGING}: suite2p {'has not succeeded' if unfinished else 'has left no output there'}")
    cameras = tuple(_cameras(results / "camera_data", missing))
    return Sources(paths, data, descriptions, tables, planes, cameras, tuple(missing), unused=unused)


def _unused(state: Mapping[str, Any]) -> frozenset[str]:
    """Return the tables of hardware that was not used; without a word on the hardware, none."""
    modules = (module for of_source in MODULES.values() for module in of_source)
    return frozenset(f"behavior_data/{module.table}" for module in modules if state and not module.used(state))


def _table(path: Path) -> pl.DataFrame | None:
    if not path.exists():
        return None
    try:
        return pl.read_ipc(path)
    except Exception as error:  # polars has many, and a damaged file meets any of them
        raise SessionDataError(f"{path} is no table ({error}). Nothing was written. Run its pipeline again.") from None


def _cameras(folder: Path, missing: list[str]) -> Iterator[Camera]:
    for name in CAMERAS:
        clock = _table(folder / f"{name}_camera_timestamps.feather")
        motion, pose = (_timed(folder / f"{name}_camera_{kind}.feather", missing) for kind in ("motion", "pose"))
        if clock is None or clock.is_empty():
            missing.append(f"camera_data/{name}_camera_timestamps is not there or has no rows")
            continue
        if motion is None and pose is None:
            missing.append(f"camera_data: neither pose nor motion of the {name} camera is there")
        about = folder / f"{name}_camera_video.json"
        yield Camera(
            name,
            clock["frame_time_us"].cast(pl.Int64).to_numpy(),
            motion,
            pose,
            json.loads(about.read_bytes()) if about.exists() else {},
        )


def _timed(path: Path, missing: list[str]) -> pl.DataFrame | None:
    """Return what video processing found in each frame; without a time it belongs nowhere."""
    table = _table(path)
    if table is None:
        return None
    if without := table["time_us"].null_count():
        missing.append(f"camera_data/{path.stem}: {without} frames have no time, and are left out")
    return table.filter(pl.col("time_us").is_not_null()).with_columns(pl.col("time_us").cast(pl.Int64))


def planes_in(folder: Path) -> Iterator[Plane]:
    """Read the planes of suite2p's output that lie in a folder, in order.

    Raises:
        SessionDataError: one is not as suite2p leaves it.
    """
    folders = [path for path in folder.glob("plane*") if path.name.removeprefix("plane").isdecimal()]
    for path in sorted(folders, key=lambda found: int(found.name.removeprefix("plane"))):
        try:
            yield _plane(path)
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise SessionDataError(
                f"{path} is no output of suite2p ({error!r}). Nothing was written. Run that plane again."
            ) from None


def _plane(folder: Path) -> Plane:
    db, settings, registered = (_record(folder / f"{name}.npy") for name in ("db", "settings", "reg_outputs"))
    frames = int(db["nframes"])
    curated = folder / "iscell.npy"
    if curated.exists():
        stat = list(np.load(folder / "stat.npy", allow_pickle=True))
        iscell = np.load(curated)
        traces = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("F", "Fneu", "spks")]
    else:  # it found no ROI, and wrote no more
        stat, iscell, traces = [], np.zeros((0, 2)), [np.zeros((0, frames), np.float32)] * 3
    if any(trace.shape != (len(stat), frames) for trace in traces) or len(iscell) != len(stat):
        shapes = ", ".join(str(array.shape) for array in (*traces, iscell))
        raise ValueError(f"F, Fneu, spks and iscell are {shapes} for {len(stat)} ROIs and {frames} frames")
    shifts = None
    if "yoff" in registered and "xoff" in registered:
        shifts = np.stack((registered["yoff"], registered["xoff"]), axis=1)
    return Plane(
        number=int(folder.name.removeprefix("plane")),
        z=int(db.get("iplane", 0)),
        roi=int(db.get("iroi", 0)),
        rate=float(settings["fs"]),
        z_planes=int(db.get("nplanes", 1)),
        stat=stat,
        accepted=iscell[:, 0] > 0,
        probability=iscell[:, 1],
        fluorescence=traces[0],
        neuropil=traces[1],
        deconvolved=traces[2],
        mean_image=registered.get("meanImg"),
        shifts=shifts,
        frames=frames,
    )


def _record(path: Path) -> dict[str, Any]:
    """Return a dictionary that suite2p saved; empty where it did not."""
    return dict(np.load(path, allow_pickle=True).item()) if path.exists() else {}
