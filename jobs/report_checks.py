"""The checks that tell a bad recording from a good one: each a number, its threshold, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from jobs import forging_behavior as behavior
from jobs.forging_sources import Array, Camera, Sources
from jobs.report_movie import Movie

PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"

LEAST_SIMILARITY = 0.73  # between tenths of one plane: one depth gave 0.79 to 0.96, half another one 0.55 to 0.67
MOST_LOSS = 0.25  # of brightness: beyond it late transients drown in noise that was none early on
MOST_SATURATED = 0.0001  # of pixels: more is not the odd bright pixel (1e-7), but the tops of transients cut off
LEAST_CELLS = 5  # fewer say nothing about a population; a good plane has tens
LONGEST_SILENCE_S = 2.0  # of a camera: tens of frames, which no busy disk explains
MOST_DROPPED = 0.01  # of frames: more, and single events fall between them
LONGEST_LICK_S = 5.0  # mice lick 5 to 10 times a second, each contact below 0.2 s
LEAST_REWARDS = 10  # rewards that a mouse can take without a single lick only if the sensor is dead
FASTEST_CM_S = 150.0  # mice run below 100 cm/s; faster, the wheel turned without them
STILL_CM_S, RUNNING_CM_S = 0.5, 5.0  # the treadmill's noise; a walk
MOST_SLIPPED = 0.1  # of the time in which the animal moves as it does when it runs, with the treadmill at rest
BIN_S = 1.0  # in which movement and speed are compared: longer than a stride
LEAST_BINS = 3  # of running and of rest, for a camera to show the difference


@dataclass(frozen=True)
class Check:
    """One check of a session.

    Attributes:
        name: for programs and `sessionflow qc overrule`.
        title: for people.
        value: what was measured; None where its source is missing.
        threshold: the last value that passes.
        least: whether more is better: values from the threshold on pass; else those up to it.
        unit: of both.
        verdict: pass, fail, or unknown where it could not be measured.
        words: what the value means, or what is missing.
    """

    name: str
    title: str
    value: float | None
    threshold: float
    least: bool
    unit: str
    verdict: str
    words: str


@dataclass(frozen=True)
class Measured:
    """A value with its words; the larger, the worse, unless the check says otherwise."""

    value: float
    words: str


Measure = Callable[[Sources, list[Movie]], Measured]


class MissingError(Exception):
    """What a check measures is not there; says what."""


def checks(sources: Sources, movies: list[Movie]) -> list[Check]:
    """Return the checks of what a session recorded, each measured, or unknown with what it lacks."""
    return list(_checks(sources, movies))


def _checks(sources: Sources, movies: list[Movie]) -> Iterator[Check]:
    imaging = sources.data.session_type.value == "mesoscope experiment"
    for name, title, of_imaging, measure, threshold, least, unit in _ALL:
        if (of_imaging and not imaging) or _HARDWARE.get(name) in sources.unused:
            continue
        try:
            found = measure(sources, movies)
        except MissingError as error:
            yield Check(name, title, None, threshold, least, unit, UNKNOWN, f"not checked: {error}")
            continue
        good = found.value >= threshold if least else found.value <= threshold
        verdict = PASS if good else FAIL
        yield Check(name, title, round(found.value, 7), threshold, least, unit, verdict, found.words)


def end_us(sources: Sources) -> int:
    """Return when the session ended: its last message of any kind, µs UTC."""
    times = [int(t["time_us"].max()) for t in sources.tables.values() if "time_us" in t.columns]  # type: ignore[arg-type]
    return max([*times, *(int(camera.times[-1]) for camera in sources.cameras)], default=sources.start_us)


def _planes(sources: Sources) -> None:
    if not sources.planes:
        raise MissingError("suite2p's output is not there")


def _movies(sources: Sources, movies: list[Movie]) -> list[Movie]:
    _planes(sources)
    if not movies:
        raise MissingError("no plane's registered movie (data.bin) is there")
    return movies


def _out_of_plane(sources: Sources, movies: list[Movie]) -> Measured:
    found = {m.plane: s for m in _movies(sources, movies) if (s := m.similarity()) is not None}
    if not found:
        raise MissingError("no plane has anything to compare: its image is noise")
    worst = min(found, key=lambda plane: found[plane])
    return Measured(found[worst], f"plane {worst}: correlation of the two tenths that are least alike")


def _bleached(sources: Sources, movies: list[Movie]) -> Measured:
    found = {m.plane: m.loss() for m in _movies(sources, movies)}
    worst = max(found, key=lambda plane: found[plane])
    return Measured(found[worst], f"plane {worst}: brightness lost from the first tenth to the last")


def _saturated(sources: Sources, movies: list[Movie]) -> Measured:
    worst = max(_movies(sources, movies), key=lambda movie: movie.saturated)
    return Measured(worst.saturated, f"plane {worst.plane}: pixels at the highest value, {worst.highest}")


def _no_cells(sources: Sources, _movies: list[Movie]) -> Measured:
    _planes(sources)
    counts = [int(plane.accepted.sum()) for plane in sources.planes]
    return Measured(sum(counts), f"cells, by plane {', '.join(map(str, counts))}")


def _camera_stopped(sources: Sources, _movies: list[Movie]) -> Measured:
    if not sources.cameras:
        raise MissingError("no camera's timestamps are there")
    end, found = end_us(sources), {}
    for camera in sources.cameras:
        steps = np.diff(np.append(camera.times, end)) / 1e6
        found[camera.name] = float(steps.max()), int(steps.argmax())
    name = max(found, key=lambda camera: found[camera][0])
    seconds, frame = found[name]
    camera = next(c for c in sources.cameras if c.name == name)
    at = (camera.times[frame] - sources.start_us) / 1e6
    return Measured(seconds, f"{name} camera: longest time without a frame, from {at:.1f} s on")


def _frames_dropped(sources: Sources, _movies: list[Movie]) -> Measured:
    found = {f"{camera.name} camera": dropped(camera.times) for camera in sources.cameras}
    for camera in sources.cameras:
        found |= _undecoded(camera)
    signal = sources.tables.get(behavior.FRAME_SIGNAL.table)
    if signal is not None and sources.imaging is not None:
        pulses = signal.filter(signal["ttl_state"] == 1)["time_us"].cast(int).to_numpy()
        found["mesoscope"] = dropped(pulses)
        expected = sources.imaging.volumes * _pulses_per_volume(pulses, sources)
        found["mesoscope, frames against pulses"] = abs(len(pulses) - expected) / max(expected, 1)
    if not found:
        raise MissingError("no camera's timestamps and no frame signal are there")
    worst = max(found, key=lambda source: found[source])
    return Measured(found[worst], f"{worst}: frames lost")


def _undecoded(camera: Camera) -> dict[str, float]:
    table = camera.motion if camera.motion is not None else camera.pose
    if table is None or not len(camera.times):
        return {}
    return {f"{camera.name} camera, movie against timestamps": abs(len(table) - len(camera.times)) / len(camera.times)}


def _pulses_per_volume(pulses: Array, sources: Sources) -> int:
    imaging = sources.imaging
    if imaging is None or len(pulses) < 2:
        return 1
    per_volume = 1e6 / imaging.rate / float(np.median(np.diff(pulses)))
    return imaging.z_planes if abs(per_volume - imaging.z_planes) < abs(per_volume - 1) else 1


def dropped(times: Array) -> float:
    """Return which part of the frames is missing between others; a pause of the clock as such is no lost frame."""
    if len(times) < 3:
        return 0.0
    steps = np.diff(times)
    steps = steps[steps < LONGEST_SILENCE_S * 1e6]  # longer ones are a camera that stopped
    missing = np.maximum(np.rint(steps / np.median(steps)) - 1, 0).sum()
    return float(missing / (missing + len(times)))


def _lick_stuck(sources: Sources, _movies: list[Movie]) -> Measured:
    found = behavior.column(sources.tables, behavior.LICK_STATE)
    if found is None:
        raise MissingError("the lick sensor's table is not there or empty")
    times, state = found
    runs = np.flatnonzero(np.diff(np.concatenate(([0], state > 0, [0]))))
    edges = np.append(times, end_us(sources))
    longest = max(((edges[b] - edges[a]) / 1e6 for a, b in runs.reshape(-1, 2)), default=0.0)
    rewards = behavior.rewards(sources.tables)
    if not len(runs) and rewards is not None and len(rewards[0]) >= LEAST_REWARDS:
        silent = (end_us(sources) - int(times[0])) / 1e6
        return Measured(silent, f"no lick at all, though {len(rewards[0])} rewards were given")
    return Measured(float(longest), f"longest contact of {len(runs) // 2} licks")


def _treadmill_slipped(sources: Sources, _movies: list[Movie]) -> Measured:
    found = behavior.column(sources.tables, behavior.DISTANCE)
    if found is None:
        raise MissingError("the treadmill's table is not there or empty")
    times, distance = found
    edges = np.arange(int(times[0]), end_us(sources), round(BIN_S * 1e6))
    if len(edges) < 3:
        raise MissingError(f"the session is shorter than {3 * BIN_S:g} s")
    # without messages the treadmill stands: distance holds, it does not ramp
    speed = np.abs(np.diff(behavior.held((times, distance), edges))) / BIN_S
    if speed.max() > FASTEST_CM_S:
        return Measured(1.0, f"it turned at {speed.max():.0f} cm/s, which no mouse runs")
    if (speed < STILL_CM_S).sum() < LEAST_BINS:
        return Measured(0.0, "it hardly ever stood still")
    if (speed > RUNNING_CM_S).sum() < LEAST_BINS:
        raise MissingError(f"it never turned faster than {speed.max():.0f} cm/s for {LEAST_BINS * BIN_S:g} s")
    if not (seen := _movements(sources, edges)):
        raise MissingError("no camera's motion energy is there to compare it with")
    for camera, energy in seen.items():
        if (slipped := _slipped(energy, speed)) is not None:
            return Measured(slipped, f"it stood still while the {camera} camera saw running")
    raise MissingError(f"the {' or the '.join(seen)} camera does not tell running from rest")


def _slipped(energy: Array, speed: Array) -> float | None:
    """Return in which part of the seconds that look like running the wheel stood; None where none look so."""
    known = np.isfinite(energy)
    running = energy[known & (speed > RUNNING_CM_S)]
    slow = energy[known & (speed < RUNNING_CM_S)]  # of one that slips early, few seconds are of true rest
    if min(len(running), len(slow)) < LEAST_BINS or np.median(running) < 1.5 * np.percentile(slow, 10):
        return None
    moving = known & (energy >= np.percentile(running, 25))
    return float((moving & (speed < STILL_CM_S)).sum() / moving.sum())


def _movements(sources: Sources, edges: Array) -> dict[str, Array]:
    """Return the mean motion energy in each bin of each camera that has one; NaN where it saw nothing."""
    found = {}
    for camera in sources.cameras:
        if camera.motion is not None and "motion_energy" in camera.motion.columns:
            at = np.digitize(camera.motion["time_us"].to_numpy(), edges) - 1
            energy = np.nan_to_num(camera.motion["motion_energy"].cast(float).to_numpy())
            inside = (at >= 0) & (at < len(edges) - 1)
            count = np.bincount(at[inside], minlength=len(edges) - 1)
            total = np.bincount(at[inside], energy[inside], minlength=len(edges) - 1)
            found[camera.name] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return found


_HARDWARE = {"lick_sensor_stuck": behavior.LICK_STATE.table, "treadmill_slipped": behavior.DISTANCE.table}
_ALL: tuple[tuple[str, str, bool, Measure, float, bool, str], ...] = (  # the bool before the unit: a least value passes
    ("moved_out_of_plane", "moved out of plane", True, _out_of_plane, LEAST_SIMILARITY, True, "correlation"),
    ("bleached", "bleached", True, _bleached, MOST_LOSS, False, "fraction lost"),
    ("saturated", "brightness saturated", True, _saturated, MOST_SATURATED, False, "fraction of pixels"),
    ("no_cells", "no cells", True, _no_cells, LEAST_CELLS, True, "cells"),
    ("frames_dropped", "frames dropped", False, _frames_dropped, MOST_DROPPED, False, "fraction of frames"),
    ("camera_stopped", "a camera that stopped", False, _camera_stopped, LONGEST_SILENCE_S, False, "s"),
    ("lick_sensor_stuck", "a lick sensor that stuck", False, _lick_stuck, LONGEST_LICK_S, False, "s"),
    ("treadmill_slipped", "treadmill slipped", False, _treadmill_slipped, MOST_SLIPPED, False, "fraction of running"),
)
