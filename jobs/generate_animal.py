"""What a generated animal does in its corridor, and what the hardware logs of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.generate_defects import SINCE, Defect
from jobs.generate_descriptions import CUE_OFFSET_CM
from jobs.generate_logs import (
    CM_PER_PULSE,
    FORWARD,
    LICK_THRESHOLD,
    MICROSECONDS,
    OFF,
    ON,
    TONE_OFF,
    TONE_ON,
    TRIALS,
    UINT16,
    UINT32,
    Message,
    data_message,
    state_message,
)

TICK_US = 20_000  # at which the encoder is read
FASTEST_CM_S = 40.0
FRAME_US = 33_333  # of the cameras
FIRST_VOLUME_US = 600_000
CONTACT_US = 40_000  # of a lick
FEWEST_TRIALS = 120  # so that their cues are more bytes than any other message
CAMERAS = {51: "face", 62: "left", 73: "right"}


@dataclass(frozen=True)
class Behavior:
    """One session's behavior; all times are µs since its onset.

    Attributes:
        seconds: how long it is.
        time, distance: where the animal was at each tick, cm.
        pulse_time, pulses: when the wheel had turned, and how far.
        trials: the kind of each trial.
        reward_open, reward_close: of the valve.
        lick: beginnings of contacts.
        stuck: when the lick sensor stopped telling contact from none; infinite where it did not.
        volumes: onsets of the mesoscope's.
        cameras: onsets of frames, by source.
    """

    seconds: float
    time: Any
    distance: Any
    pulse_time: Any
    pulses: Any
    trials: Any
    reward_open: Any
    reward_close: Any
    lick: Any
    stuck: float
    volumes: Any
    cameras: dict[int, Any]

    @property
    def wheel_distance(self) -> Any:
        """What the wheel had measured at each of its messages, cm."""
        return np.cumsum(self.pulses * CM_PER_PULSE)

    def sources(self) -> dict[int, list[Message]]:
        """Return what every source of DataLogger logs."""
        found = {1: self._runtime(), 101: self._actor(), 152: self._sensor(), 203: self._encoder()}
        frames = {source: ((int(time), b"") for time in times) for source, times in self.cameras.items()}
        return {source: sorted(messages) for source, messages in {**found, **frames}.items()}

    def _runtime(self) -> Iterator[Message]:
        cues = list(TRIALS.values())
        yield 40_000, bytes(cue for kind in self.trials for cue in cues[kind][0])
        end = round(self.seconds * MICROSECONDS)
        for time, *state in ((60_000, 1, 0), (61_000, 2, 0), (62_000, 3, 1), (63_000, 4, 0), (300_000, 1, 2)):
            yield time, bytes(state)
        for time, *state in ((301_000, 2, 1), (end, 1, 0), (end + 1_000, 2, 0)):
            yield time, bytes(state)

    def _actor(self) -> Iterator[Message]:
        for time, module, event in ((10_000, 3, OFF), (11_000, 7, OFF), (200_900, 7, ON), (700_900, 7, OFF)):
            yield time, state_message(module, event)
        yield 12_400, state_message(5, OFF)
        yield 12_600, state_message(5, TONE_OFF)
        for opened, closed in zip(self.reward_open.tolist(), self.reward_close.tolist(), strict=True):
            yield opened - 200, state_message(5, TONE_ON)
            yield opened, state_message(5, ON)
            yield closed, state_message(5, OFF)
            yield opened + 300_000, state_message(5, TONE_OFF)

    def _sensor(self) -> Iterator[Message]:
        # no two messages of a source share a time: pulses' end on 0, torques' on 3, licks' on 5 and 7
        def lick(time: int, volts: int) -> Message:
            return time, data_message(4, FORWARD, UINT16, volts)

        yield lick(9_501, 0)
        for number, time in enumerate(self.lick.tolist()):
            yield lick(time, LICK_THRESHOLD + 37 * number % 1600)
            yield lick(time + CONTACT_US, 0)
        end = round(self.seconds * MICROSECONDS)
        if self.stuck < end:
            for time in range(int(self.stuck) // 10 * 10 + 5, end, 100_000):
                yield lick(time, 1_500 + time // 100_000 * 61 % 500)
        high = int(np.median(np.diff(self.volumes))) * 4 // 100 * 10
        yield 9_702, data_message(6, ON, UINT16, 0)
        yield 9_902, state_message(1, OFF)
        for time in self.volumes.tolist():
            yield time, state_message(1, ON)
            yield time + high, state_message(1, OFF)
        for time in range(800_003, end, 500_000):
            yield time, data_message(6, FORWARD, UINT16, 100 + time // 500_000 * 97 % 600)

    def _encoder(self) -> Iterator[Message]:
        yield 9_000, data_message(2, ON, UINT32, 0)
        for time, pulses in zip(self.pulse_time.tolist(), self.pulses.tolist(), strict=True):
            yield time, data_message(2, FORWARD, UINT32, pulses)


def behave(
    seconds: float, volumes: int, rate: float, drift_ppm: float, rng: Any, defects: Collection[Defect] = ()
) -> Behavior:
    """Make up a session's behavior.

    Args:
        seconds: how long it is.
        volumes: that the mesoscope scans.
        rate: Hz, by the mesoscope's own clock.
        drift_ppm: by how many millionths its clock is slower than that of everything else.
        rng: a numpy Generator; the same one gives the same behavior.
        defects: what goes wrong.
    """
    end, since = seconds * MICROSECONDS, SINCE * seconds * MICROSECONDS
    time = np.arange(310_000, end, TICK_US).astype(np.int64)
    step = _speed(len(time), rng) * TICK_US / MICROSECONDS
    grip = np.where((time > since) & (Defect.TREADMILL_SLIPPED in defects), 0.0, 1.0)
    turned = np.diff(np.floor(np.cumsum(step * grip) / CM_PER_PULSE), prepend=0.0).astype(np.int64)
    moved = turned > 0
    wheel = np.cumsum(turned * CM_PER_PULSE)
    trials = rng.integers(0, len(TRIALS), max(FEWEST_TRIALS, int(wheel[-1] / 180.0) + 2))
    opened = time[_reached(wheel, trials)] + 3
    opened = opened[opened < end - MICROSECONDS]
    closed = opened + rng.integers(30_000, 40_000, len(opened))
    stuck = since if Defect.LICK_SENSOR_STUCK in defects else np.inf
    lick = _licks(opened, end, rng)
    period_us = MICROSECONDS / rate * (1 + drift_ppm * 1e-6)
    frames = np.arange(10_051, end, FRAME_US).astype(np.int64)
    stopped = Defect.CAMERA_STOPPED in defects
    return Behavior(
        seconds=seconds,
        time=time,
        distance=np.cumsum(step),
        pulse_time=time[moved],
        pulses=turned[moved],
        trials=trials,
        reward_open=opened,
        reward_close=closed,
        lick=lick[lick + CONTACT_US < stuck],
        stuck=stuck,
        volumes=FIRST_VOLUME_US + 10 * np.rint(np.arange(volumes) * period_us / 10).astype(np.int64),
        cameras={s: frames[frames < since] if stopped and s == 51 else frames for s in CAMERAS},
    )


def _speed(ticks: int, rng: Any) -> Any:
    """Return the animal's speed at each tick, cm/s: it runs, slows down, and rests."""
    keep = np.exp(-TICK_US / (2.0 * MICROSECONDS))
    kicks, level, found = rng.normal(0, np.sqrt(1 - keep**2), ticks), 0.0, np.zeros(ticks)
    for tick in range(ticks):
        level = keep * level + kicks[tick]
        found[tick] = level
    smooth = np.convolve(found, np.full(15, 1 / 15), mode="same")
    return np.clip(10.0 + 14.0 * smooth, 0.0, FASTEST_CM_S)


def _reached(wheel: Any, trials: Any) -> Any:
    """Return the ticks at which the animal came into the reward zone of each trial."""
    kinds = [(length, zone[0]) for _, length, zone in TRIALS.values()]
    starts = np.cumsum([0.0, *(kinds[kind][0] for kind in trials)])[:-1] - CUE_OFFSET_CM
    zones = starts + [kinds[kind][1] for kind in trials]
    return np.searchsorted(wheel, zones[zones < wheel[-1]])


def _licks(rewards: Any, end: float, rng: Any) -> Any:
    """Return beginnings of licks: a bout at seven a second after each reward, and a few at any time."""
    bouts = [reward + 150_007 + np.arange(rng.integers(5, 12)) * 142_000 for reward in rewards]
    stray = rng.integers(MICROSECONDS, int(end) - MICROSECONDS, int(end / MICROSECONDS / 4))
    found = np.unique(np.concatenate([*bouts, stray]).astype(np.int64)) // 10 * 10 + 7
    apart = np.concatenate(([True], np.diff(found) > 100_000))
    while not apart.all():
        found = found[apart]
        apart = np.concatenate(([True], np.diff(found) > 100_000))
    return found[found < end - MICROSECONDS]
