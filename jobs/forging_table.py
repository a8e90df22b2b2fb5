"""A session as a table: a row for each imaging volume, or for each tick of a stated clock where nothing was imaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs import forging_behavior as behavior
from jobs.forging_frames import Times, VolumeClock
from jobs.forging_sources import Camera, Sources

TICK_US = 100_000  # of the clock without imaging: 10 Hz, about the rate of the mesoscope's volumes
_HELD = {  # column → channel whose value holds at the row's onset, and the column's type
    "lick_contact": (behavior.LICK_STATE, pl.UInt8),
    "tone": (behavior.TONE, pl.UInt8),
    "brake_torque_N_cm": (behavior.BRAKE, pl.Float64),
    "wheel_torque_N_cm": (behavior.TORQUE, pl.Float64),
    "screens": (behavior.SCREEN, pl.UInt8),
    "system_state": (behavior.SYSTEM, pl.UInt8),
    "experiment_state": (behavior.EXPERIMENT, pl.UInt8),
    "lick_guidance": (behavior.GUIDANCE, pl.UInt8),
    "reward_visibility": (behavior.VISIBILITY, pl.UInt8),
}


def ticks(sources: Sources) -> Times:
    """Return the clock of a session without imaging: every 100 ms, from its first behavior or camera message on."""
    stamps: list[Any] = [table["time_us"] for table in sources.tables.values() if "time_us" in table.columns]
    stamps += [camera.times for camera in sources.cameras]
    clocks = [(int(times[0]), int(times[-1])) for times in stamps]
    if not clocks:
        return np.zeros(0, dtype=np.int64)
    return np.arange(min(first for first, _ in clocks), max(last for _, last in clocks) + 1, TICK_US)


def session_table(sources: Sources, clock: VolumeClock | None) -> pl.DataFrame:
    """Return a session's table.

    A row stands for the time from its onset to the next one's. States and distance are those at the onset (the last
    value up to then; null before the first one); licks are those that began in the row, water is what came in it,
    motion is the mean of its camera frames, pose that of its last one. Activity is of the accepted ROIs, in the order
    of `cells`.

    Args:
        sources: of the session.
        clock: of its imaging; None without.
    """
    onsets = ticks(sources) if clock is None else clock.times
    edges = np.append(onsets, onsets[-1:] + (round(float(np.median(np.diff(onsets)))) if len(onsets) > 1 else TICK_US))
    columns: dict[str, Any] = {
        "frame": np.arange(len(onsets), dtype=np.uint32) + (clock.first if clock else 0),
        "time_us": onsets.astype(np.uint64),
        **dict(_movement(sources, edges)),
        **dict(_counted(sources, edges)),
        **dict(_states(sources, onsets)),
        **dict(_corridor(sources, onsets)),
    }
    for camera in sources.cameras:
        columns.update(_motion(camera, edges))
        columns.update(_pose(camera, edges))
    if clock is not None:
        columns.update(_activity(sources, clock))
        columns.update(_multiday(sources, clock))
    return pl.DataFrame(columns)


def cells(sources: Sources) -> pl.DataFrame:
    """Return the accepted ROIs in the order of the table's activity, with their places in suite2p's output."""
    rows = [
        {
            "plane": plane.number,
            "roi": int(roi),
            "y": float(plane.stat[roi]["med"][0]),
            "x": float(plane.stat[roi]["med"][1]),
            "pixels": len(plane.stat[roi]["ypix"]),
            "cell_probability": float(plane.probability[roi]),
            "multiday_cell": sources.tracked.cells.get((plane.number, int(roi))) if sources.tracked else None,
        }
        for plane in sources.planes
        for roi in np.flatnonzero(plane.accepted)
    ]
    schema: dict[str, Any] = {
        "plane": pl.UInt16,
        "roi": pl.UInt32,
        "y": pl.Float32,
        "x": pl.Float32,
        "pixels": pl.UInt32,
        "cell_probability": pl.Float64,
        "multiday_cell": pl.UInt32,
    }
    return pl.DataFrame(rows, schema=schema).with_row_index("cell")


Columns = Iterator[tuple[str, pl.Series]]


def _movement(sources: Sources, edges: Times) -> Columns:
    distance = behavior.column(sources.tables, behavior.DISTANCE)
    if distance is not None:
        values = behavior.held(distance, edges)
        yield "distance_cm", _series(values[:-1])
        yield "speed_cm_s", _series(np.diff(values) / (np.diff(edges) / 1e6))


def _counted(sources: Sources, edges: Times) -> Columns:
    licks, rewards = behavior.licks(sources.tables), behavior.rewards(sources.tables)
    if licks is not None:
        yield "licks", _series(np.histogram(licks[0], _bins(edges))[0], pl.UInt16)
    if rewards is not None:
        yield "water_uL", _series(np.histogram(rewards[0], _bins(edges), weights=rewards[1])[0])


def _bins(edges: Times) -> Times:
    """Return the edges of rows for integer times: the last row, too, is without its end."""
    return np.append(edges[:-1], edges[-1:] - 1) if len(edges) > 1 else edges


def _states(sources: Sources, onsets: Times) -> Columns:
    for name, (channel, kind) in _HELD.items():
        found = behavior.column(sources.tables, channel)
        if found is not None:
            yield name, _series(behavior.held(found, onsets), kind)


def _corridor(sources: Sources, onsets: Times) -> Columns:
    trials, distance = sources.trials, behavior.column(sources.tables, behavior.DISTANCE)
    if trials is None or distance is None:
        return
    at = behavior.held(distance, onsets)
    number = np.searchsorted(trials["start_us"].to_numpy(), onsets, side="right") - 1
    inside = (number >= 0) & (onsets <= trials["stop_us"][-1])
    yield "trial", _series(np.where(inside, number, np.nan), pl.UInt32)
    rows = [int(n) if there else None for n, there in zip(number, inside, strict=True)]
    yield "trial_type", pl.Series([None if n is None else trials["trial_type"][n] for n in rows], dtype=pl.String)
    starts = trials["start_cm"].to_numpy()
    yield "trial_position_cm", _series(np.where(inside, at - starts[np.maximum(number, 0)], np.nan))
    cues = sources.tables.get("behavior_data/vr_cue_data")
    if cues is not None:
        index = np.searchsorted(cues["traveled_distance_cm"].to_numpy(), at, side="right") - 1
        known = (index >= 0) & ~np.isnan(at)
        yield "cue", _series(np.where(known, cues["vr_cue"].to_numpy()[np.maximum(index, 0)], np.nan), pl.UInt8)


def _motion(camera: Camera, edges: Times) -> Columns:
    if camera.motion is None:
        return
    rows = np.searchsorted(edges, camera.motion["time_us"].cast(pl.Int64).to_numpy(), side="right") - 1
    inside = (rows >= 0) & (rows < len(edges) - 1)
    frames = np.bincount(rows[inside], minlength=len(edges) - 1)
    for name in camera.motion.columns:
        if name not in ("frame", "time_us"):
            values = camera.motion[name].cast(pl.Float64).to_numpy()[inside]
            total = np.bincount(rows[inside], weights=values, minlength=len(frames))
            yield f"{camera.name}_{name}", _series(np.where(frames > 0, total / np.maximum(frames, 1), np.nan))


def _pose(camera: Camera, edges: Times) -> Columns:
    if camera.pose is None:
        return
    times = camera.pose["time_us"].cast(pl.Int64).to_numpy()
    last = np.searchsorted(times, edges[1:], side="left") - 1
    inside = (last >= 0) & (times[np.maximum(last, 0)] >= edges[:-1])
    for name in camera.pose.columns:
        if name not in ("frame", "time_us"):
            values = camera.pose[name].cast(pl.Float64).to_numpy()[np.maximum(last, 0)]
            yield f"{camera.name}_{name}", _series(np.where(inside, values, np.nan))


def _activity(sources: Sources, clock: VolumeClock) -> Columns:
    if not any(plane.accepted.any() for plane in sources.planes):
        return
    for name in ("fluorescence", "neuropil", "deconvolved"):
        chosen = [getattr(plane, name)[plane.accepted][:, clock.volumes] for plane in sources.planes]
        values: NDArray[Any] = np.concatenate(chosen).T.astype(np.float32)
        yield name, pl.Series(np.ascontiguousarray(values))


def _multiday(sources: Sources, clock: VolumeClock) -> Columns:
    """Give the activity of the cells that were tracked across days: plane by plane, in the order of their numbers."""
    if sources.tracked is None or not any(sources.tracked.order.values()):
        return
    for name in ("fluorescence", "neuropil", "deconvolved"):
        planes = [sources.tracked.activity[plane, name][:, clock.volumes] for plane in sources.tracked.order]
        yield f"multiday_{name}", pl.Series(np.ascontiguousarray(np.concatenate(planes).T.astype(np.float32)))


def _series(values: NDArray[Any], kind: Any = pl.Float64) -> pl.Series:
    """Return a column; NaN is null."""
    series = pl.Series(values)
    return (series.fill_nan(None) if series.dtype.is_float() else series).cast(kind)
