"""Tables of the hardware modules: what each one's messages mean, in the columns that the lab's analyses read.

Every function takes a module's events (code → times and values), the codes of its generation and the module's
calibration from hardware_state.yaml, and returns a table; without messages an empty one. Times are µs UTC. The tables
equal those of the lab's extractors (sl-behavior 4.0.0rc1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.logs import Codes, Event

CCW, CW, LICK = 51, 52, 51  # events of encoder, torque sensor and lick sensor, in both generations
DECIMALS = 8
RECORDED_TTL = "recorded_mesoscope_ttl"  # not a calibration: where it is false, there was no mesoscope

Events = dict[int, list[Event]]
Numbers = NDArray[Any]


def encoder(events: Events, _codes: Codes, cm_per_pulse: float) -> pl.DataFrame:
    """Return `time_us`, `traveled_distance_cm`: forward (CCW) is positive."""
    times, pulses = _signed(events)
    distance = np.round(np.cumsum(pulses * cm_per_pulse), DECIMALS)
    return _table(time_us=_times(times), traveled_distance_cm=_without_minus_zero(distance))


def torque(events: Events, _codes: Codes, torque_per_adc_unit: float) -> pl.DataFrame:
    """Return `time_us`, `torque_N_cm`: forward (CCW) is positive."""
    times, units = _signed(events)
    values = np.round(units * torque_per_adc_unit, DECIMALS)
    times, values = _closed(times, values)
    return _table(time_us=_times(times), torque_N_cm=_without_minus_zero(values))


def ttl(events: Events, codes: Codes, _recorded: float) -> pl.DataFrame:
    """Return `time_us`, `ttl_state` of the mesoscope's frame signal."""
    times, states = _closed(*_levels(events, codes.on, codes.off))
    return _table(time_us=_times(times), ttl_state=states.astype(np.uint8))


def brake(events: Events, codes: Codes, minimum_strength: float, maximum_strength: float) -> pl.DataFrame:
    """Return `time_us`, `break_torque_N_cm`: a released brake still has its least torque."""
    times, engaged = _levels(events, codes.on, codes.off)
    strength = np.where(engaged == 1, maximum_strength, minimum_strength).astype(np.float64)
    return _table(time_us=_times(times), break_torque_N_cm=strength)


def lick(events: Events, _codes: Codes, threshold: float) -> pl.DataFrame:
    """Return `time_us`, `voltage_12_bit_adc`, `lick_state`: at the threshold it is a lick."""
    times, volts = _columns(events.get(LICK, []))
    states = (volts >= threshold).astype(np.uint8)
    return _table(time_us=_times(times), voltage_12_bit_adc=volts.astype(np.uint16), lick_state=states)


def screen(events: Events, codes: Codes, initially_on: float) -> pl.DataFrame:
    """Return `time_us`, `screen_state`: each pulse's rising edge turns the screens over."""
    times, levels = _levels(events, codes.on, codes.off)
    if len(times):
        rising = np.flatnonzero((levels[:-1] == 0) & (levels[1:] == 1)) + 1
        times = times[np.concatenate(([0], rising))]
    states = (np.arange(len(times)) + int(initially_on)) % 2
    return _table(time_us=_times(times), screen_state=states.astype(np.uint8))


def valve(events: Events, codes: Codes, scale: float, exponent: float) -> pl.DataFrame:
    """Return `time_us`, `dispensed_water_volume_uL`, `tone_state`: a row at each closing and each change of the tone.

    The volume of an opening is `scale` · µs ^ `exponent`, and is counted when the valve closes.
    """
    times, levels = _levels(events, codes.on, codes.off)
    first = times[:1]
    opened, closed = _pulses(times, levels)
    if not len(closed):  # no water: one row, whatever the buzzer did
        zeros = np.zeros(len(first))
        return _valve_table(_times(first), zeros, zeros)
    volumes = np.round(np.cumsum(scale * np.power((closed - opened).astype(np.float64), exponent)), DECIMALS)
    reward_times, volumes = np.concatenate((first, closed)), np.concatenate(([0.0], volumes))
    tone_times, tones = _closed(*_levels(events, codes.tone_on, codes.tone_off))
    shared = np.sort(np.concatenate((tone_times, reward_times)), kind="stable")
    tone = _held(tone_times, tones, shared) if len(tone_times) else np.zeros(len(shared))
    return _valve_table(_times(shared), _held(reward_times, volumes, shared), tone)


@dataclass(frozen=True)
class Module:
    """A hardware module.

    Attributes:
        table: its table's name.
        key: the module's type and id in messages.
        calibration: the fields of hardware_state.yaml that its table needs; where one is null, it was not used.
    """

    table: str
    key: tuple[int, int]
    calibration: tuple[str, ...]
    make: Callable[..., pl.DataFrame]

    def used(self, state: Mapping[str, Any]) -> bool:
        """Whether a session's hardware_state.yaml says that the module was used."""
        values = [state.get(key) for key in self.calibration]
        return None not in values and (self.calibration != (RECORDED_TTL,) or bool(values[0]))


MODULES = {  # by the microcontroller's source
    101: (
        Module("break_data", (3, 1), ("minimum_break_strength", "maximum_break_strength"), brake),
        Module("valve_data", (5, 1), ("valve_scale_coefficient", "valve_nonlinearity_exponent"), valve),
        Module("screen_data", (7, 1), ("screens_initially_on",), screen),
    ),
    152: (
        Module("lick_data", (4, 1), ("lick_threshold",), lick),
        Module("torque_data", (6, 1), ("torque_per_adc_unit",), torque),
        Module("mesoscope_frame_data", (1, 1), (RECORDED_TTL,), ttl),
    ),
    203: (Module("encoder_data", (2, 1), ("cm_per_pulse",), encoder),),
}


def _valve_table(times: Numbers, volumes: Numbers, tones: Numbers) -> pl.DataFrame:
    return _table(
        time_us=times, dispensed_water_volume_uL=volumes.astype(np.float64), tone_state=tones.astype(np.uint8)
    )


def _pulses(times: Numbers, levels: Numbers) -> tuple[Numbers, Numbers]:
    """Return when a signal rose and fell; what began before the first message or never ended is left out."""
    rising = np.flatnonzero((levels[:-1] == 0) & (levels[1:] == 1)) + 1
    falling = np.flatnonzero((levels[:-1] == 1) & (levels[1:] == 0)) + 1
    if len(rising):
        falling = falling[falling > rising[0]]
    count = min(len(rising), len(falling))
    return times[rising[:count]], times[falling[:count]]


def _signed(events: Events) -> tuple[Numbers, Numbers]:
    """Return times and values of a module with a direction; where one direction never came, its zero is put in."""
    forward, backward = list(events.get(CCW, [])), list(events.get(CW, []))
    if bool(forward) != bool(backward):  # as the lab's extractor does, so that the tables are the same
        present, absent = (forward, backward) if forward else (backward, forward)
        absent.append((present[0][0] + 1, 0))
    times, values = _columns([*forward, *((time, -value) for time, value in backward)])
    return _sorted(times, values)


def _levels(events: Events, on: int, off: int) -> tuple[Numbers, Numbers]:
    """Return times and levels, 1 and 0, of a signal that is on or off."""
    ones = [(time, 1.0) for time, _ in events.get(on, [])]
    zeros = [(time, 0.0) for time, _ in events.get(off, [])]
    return _sorted(*_columns([*ones, *zeros]))


def _columns(events: list[Event]) -> tuple[Numbers, Numbers]:
    times = np.array([time for time, _ in events], dtype=np.int64)
    return times, np.array([value for _, value in events], dtype=np.float64)


def _sorted(times: Numbers, values: Numbers) -> tuple[Numbers, Numbers]:
    order = np.argsort(times, kind="stable")
    return times[order], values[order]


def _closed(times: Numbers, values: Numbers) -> tuple[Numbers, Numbers]:
    """Add a zero 1 µs after the end of a signal that does not end on zero."""
    if len(values) and values[-1] != 0:
        return np.append(times, times[-1] + 1), np.append(values, 0)
    return times, values


def _held(times: Numbers, values: Numbers, at: Numbers) -> Numbers:
    """Return the last value before or at each time; before the first one, that one."""
    held: Numbers = values[np.maximum(np.searchsorted(times, at, side="right") - 1, 0)]
    return held


def _without_minus_zero(values: Numbers) -> Numbers:
    return np.where((np.abs(values) <= 1e-8) & np.signbit(values), 0.0, values)


def _times(times: Numbers) -> Numbers:
    return times.astype(np.uint64)


def _table(**columns: Numbers) -> pl.DataFrame:
    return pl.DataFrame(columns)
