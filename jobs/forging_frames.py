"""When each imaging volume was acquired: the edges of the mesoscope's frame signal, never its nominal rate.

The mesoscope's clock drifts against the computer's (50 ppm are two frames an hour); the edges do not, for they were
logged by the clock of the rest of the session.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackers.errors import SessionDataError
from trackers.forging_settings import UnclearFrames

Times = NDArray[np.int64]

_ON_THE_CLOCK = 0.25  # of a frame: how far a gap may be from a whole number of frames, if the clock ran on in it
_RATE = 0.2  # how far the measured rate may be from the nominal one, as a fraction


@dataclass(frozen=True)
class Imaging:
    """What the imaging data says of its clock.

    Attributes:
        volumes: how many were recorded.
        rate: of volumes, nominal, Hz.
        z_planes: frames of a volume, one after the other; the ROIs of a frame are not counted.
    """

    volumes: int
    rate: float
    z_planes: int = 1


@dataclass(frozen=True)
class VolumeClock:
    """When volumes were acquired.

    Attributes:
        times: of each volume's onset, µs UTC.
        first: the volume that has the first time; those before it, and after the last time, have none.
        notes: what people must know of how the times were found.
    """

    times: Times
    first: int = 0
    notes: tuple[str, ...] = ()

    @property
    def volumes(self) -> slice:
        """The volumes that have a time."""
        return slice(self.first, self.first + len(self.times))


def volume_clock(signal: pl.DataFrame, imaging: Imaging, unclear: UnclearFrames = UnclearFrames.REFUSE) -> VolumeClock:
    """Find each volume's pulse; the pulses come once a volume or once a frame, which their rate tells.

    Pulses that are missing between others while the clock ran on are put in, if they then fit the frames exactly. Any
    other disagreement is refused, because a guess would shift the session, unless a person has said what it means:
    pulses and frames share their start, or their end (missing pulses are put in first), or go together one to one (what
    is missing in the signal was not recorded either).

    Args:
        signal: mesoscope_frame_data: `time_us`, `ttl_state`.
        imaging: what was recorded.
        unclear: what a disagreement means.

    Raises:
        SessionDataError: pulses and frames do not go together.
    """
    logged = signal.filter(pl.col("ttl_state") == 1)["time_us"].cast(pl.Int64).to_numpy()
    if len(logged) < 2:
        raise SessionDataError(
            f"the mesoscope's frame signal has {len(logged)} pulses, and {imaging.volumes} volumes were recorded"
        )
    pulses, notes = _without_bounces(logged)
    period = float(np.median(np.diff(pulses)))
    per_volume = _pulses_per_volume(period, imaging)
    expected = imaging.volumes * per_volume
    steps = np.maximum(np.rint(np.diff(pulses) / period).astype(np.int64), 1)
    gaps = steps > 1
    missing = int((steps - 1).sum())
    paused = bool((np.abs(np.diff(pulses) - steps * period)[gaps] > _ON_THE_CLOCK * period).any())
    whole = pulses if paused else _filled(pulses, steps)
    if len(pulses) == expected and (paused or not missing):
        if paused:
            notes.append(f"the mesoscope paused {int(gaps.sum())} times, for {missing * period / 1e6:.1f} s in all")
        return VolumeClock(pulses[::per_volume], notes=tuple(notes))
    if 0 <= len(whole) - expected < per_volume and not paused:
        if missing:
            notes.append(f"{missing} pulses of the mesoscope are missing; their frames' times are interpolated")
        if len(whole) > expected:
            notes.append(f"the last volume was not finished: {len(whole) - expected} pulses of it are left out")
        return VolumeClock(whole[:expected:per_volume], notes=tuple(notes))
    found = f"{len(pulses)} pulses, with {missing} missing in {int(gaps.sum())} gaps, for {expected} frames"
    counted = pulses if unclear is UnclearFrames.ONE_TO_ONE else whole
    return _as_told(f"the mesoscope sent {found}", counted, imaging, per_volume, unclear, notes)


def _as_told(
    words: str, pulses: Times, imaging: Imaging, per_volume: int, unclear: UnclearFrames, notes: list[str]
) -> VolumeClock:
    if unclear is UnclearFrames.REFUSE:
        raise SessionDataError(
            f"{words}: which pulse is which frame's is not clear. Look at the recording, then say what it means: "
            f"{', '.join(repr(u.value) for u in UnclearFrames if u is not UnclearFrames.REFUSE)}"
        )
    if unclear is UnclearFrames.ONE_TO_ONE and len(pulses) != imaging.volumes * per_volume:
        raise SessionDataError(f"{words}: they do not go together one to one")
    from_end = unclear is UnclearFrames.FROM_END
    spare = len(pulses) % per_volume
    times = pulses[spare if from_end else 0 :: per_volume][: len(pulses) // per_volume]
    count = min(len(times), imaging.volumes)
    notes = [*notes, f"{words}: counted {unclear.value}, as a person decided"]
    if count < imaging.volumes:
        notes.append(f"{imaging.volumes - count} volumes have no time, and are left out")
    if from_end:
        return VolumeClock(times[len(times) - count :], imaging.volumes - count, tuple(notes))
    return VolumeClock(times[:count], 0, tuple(notes))


def _without_bounces(pulses: Times) -> tuple[Times, list[str]]:
    """Leave out pulses that follow another one within a quarter of a frame: no frame is that short."""
    intervals = np.diff(pulses)
    kept = np.concatenate(([True], intervals > np.median(intervals) / 4))
    bounces = int((~kept).sum())
    return pulses[kept], [f"{bounces} pulses that came right after another one are left out"] if bounces else []


def _pulses_per_volume(period: float, imaging: Imaging) -> int:
    """Return 1, or the number of z-planes; `period` is that of the pulses, µs."""
    volume = 1e6 / imaging.rate
    for count in (1, imaging.z_planes):
        if abs(count * period / volume - 1) < _RATE:
            return count
    raise SessionDataError(
        f"the mesoscope sent a pulse every {period / 1e3:.1f} ms, and its volumes take {volume / 1e3:.1f} ms with "
        f"{imaging.z_planes} frames each: these do not go together"
    )


def _filled(pulses: Times, steps: Times) -> Times:
    """Put in the pulses that are missing; `steps` says how many frames each interval is long."""
    numbers = np.concatenate(([0], np.cumsum(steps)))
    since_the_first = np.interp(np.arange(numbers[-1] + 1), numbers, pulses - pulses[0])
    times: Times = np.rint(since_the_first).astype(np.int64) + pulses[0]
    return times
