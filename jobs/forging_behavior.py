"""What the animal did, out of the behavior tables: channels as they were logged, licks, rewards, speed and trials.

Times are µs UTC throughout; nothing is resampled but the speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Numbers = NDArray[Any]
Tables = Mapping[str, pl.DataFrame]

SPEED_STEP_US = 50_000  # between two values of the speed
SPEED_WINDOW_US = 200_000  # over which each is taken: the encoder reports every few to tens of ms
NO_UNIT = "n/a"
_FOLDER = "behavior_data"


@dataclass(frozen=True)
class Channel:
    """A logged column whose every value holds until the next one.

    Attributes:
        table: below processed_data, without suffix.
        column: in it.
        name: in NWB files.
        description: what it is, with the meaning of its values.
        unit: SI where there is one.
        conversion: from the column's unit to `unit`.
    """

    table: str
    column: str
    name: str
    description: str
    unit: str = NO_UNIT
    conversion: float = 1.0


def _channel(
    table: str, column: str, name: str, description: str, unit: str = NO_UNIT, conversion: float = 1.0
) -> Channel:
    return Channel(f"{_FOLDER}/{table}", column, name, description, unit, conversion)


DISTANCE = _channel(
    *("encoder_data", "traveled_distance_cm", "traveled_distance"),
    *("Distance run on the wheel since the session's start, forward positive.", "meters", 0.01),
)
LICK_STATE = _channel("lick_data", "lick_state", "lick_state", "1: the tongue touches the lick tube.")
VOLUME = _channel(
    *("valve_data", "dispensed_water_volume_uL", "dispensed_water_volume"),
    *("Water dispensed since the session's start; counted when the valve closes.", "L", 1e-6),
)
TONE = _channel("valve_data", "tone_state", "tone_state", "1: the reward's tone sounds.")
BRAKE = _channel(
    *("break_data", "break_torque_N_cm", "brake_torque"),
    *("Torque that it takes to turn the wheel against its brake; the least one: released.", "N*m", 0.01),
)
TORQUE = _channel(
    "torque_data", "torque_N_cm", "wheel_torque", "Torque on the braked wheel, forward positive.", "N*m", 0.01
)
SCREEN = _channel("screen_data", "screen_state", "screen_state", "1: the screens are on.")
SYSTEM = _channel("system_state_data", "system_state", "system_state", "State of the acquisition system")
EXPERIMENT = _channel("experiment_state_data", "experiment_state", "experiment_state", "State of the experiment")
GUIDANCE = _channel(
    "guidance_state_data", "lick_guidance_state", "lick_guidance_state", "1: rewards come without a lick."
)
VISIBILITY = _channel(
    *("reward_visibility_state_data", "reward_visibility_state", "reward_visibility_state"),
    "1: the reward zone is marked in the corridor.",
)
VOLTAGE = _channel(
    "lick_data",
    "voltage_12_bit_adc",
    "lick_sensor_voltage",
    "Voltage of the lick sensor, in units of a 12-bit ADC.",
    "a.u.",
)
FRAME_SIGNAL = _channel(
    "mesoscope_frame_data",
    "ttl_state",
    "mesoscope_frame_signal",
    "The mesoscope's frame signal; it rises at each onset.",
)
CHANNELS = (  # DISTANCE is no plain channel: it is a position
    *(VOLTAGE, LICK_STATE, VOLUME, TONE, BRAKE, TORQUE, SCREEN, FRAME_SIGNAL, SYSTEM, EXPERIMENT, GUIDANCE, VISIBILITY),
)


def column(tables: Tables, channel: Channel) -> tuple[Numbers, Numbers] | None:
    """Return a channel's times and values; None where its table is missing or has no rows.

    Of values with the same time the last one counts: it is what held from then on.
    """
    table = tables.get(channel.table)
    if table is None or table.is_empty():
        return None
    times = table["time_us"].cast(pl.Int64).to_numpy()
    last = np.concatenate((times[1:] != times[:-1], [True]))
    return times[last], table[channel.column].to_numpy()[last]


def held(channel: tuple[Numbers, Numbers], at: Numbers) -> Numbers:
    """Return the values that hold at some times, as float64; NaN before the first one."""
    times, values = channel
    index = np.searchsorted(times, at, side="right") - 1
    return np.where(index < 0, np.nan, values[np.maximum(index, 0)].astype(np.float64))


def licks(tables: Tables) -> tuple[Numbers, Numbers] | None:
    """Return when each lick began and ended; one that did not end ends with the last message."""
    found = column(tables, LICK_STATE)
    if found is None:
        return None
    times, states = found
    changes = np.diff(states.astype(np.int8), prepend=0, append=0)
    ends = np.append(times, times[-1])
    return times[np.flatnonzero(changes[:-1] == 1)], ends[np.flatnonzero(changes == -1)]


def rewards(tables: Tables) -> tuple[Numbers, Numbers] | None:
    """Return when the valve closed after each reward, and the reward's volume in µL."""
    found = column(tables, VOLUME)
    if found is None:
        return None
    times, volumes = found
    steps = np.diff(volumes, prepend=0.0)
    return times[steps > 0], steps[steps > 0]


def speed(tables: Tables) -> tuple[int, Numbers] | None:
    """Return the running speed on a regular clock: its first time, and values every `SPEED_STEP_US`, cm/s.

    A value is the distance gained within `SPEED_WINDOW_US` around its time, divided by that window.
    """
    found = column(tables, DISTANCE)
    if found is None or found[0][-1] - found[0][0] < SPEED_STEP_US:
        return None
    times, distance = found
    clock = np.arange(times[0], times[-1] + 1, SPEED_STEP_US)
    half = SPEED_WINDOW_US // 2
    window = (times, distance)
    gained = held(window, clock + half) - np.nan_to_num(held(window, clock - half), nan=float(distance[0]))
    return int(times[0]), gained / (SPEED_WINDOW_US / 1e6)


def trials(tables: Tables, configuration: Mapping[str, Any]) -> pl.DataFrame | None:
    """Return the trials that the animal began, in order; None where the session has none.

    A trial begins when the animal has come to its start, and ends where the next one begins; the last one ends with the
    encoder's last message.

    Args:
        tables: of the session.
        configuration: experiment_configuration.yaml; its trial structures name the types, in their order.

    Returns:
        `start_us`, `stop_us`, `trial_type`, `start_cm`, `completed` (run to its end), and where their tables are there:
        `reward_zone_start_cm`, `reward_zone_end_cm` (null for a trial broken off before its zone), `rewarded` (water
        came in it), `guided` (null where that is not known).
    """
    table, distance = tables.get(f"{_FOLDER}/trial_data"), column(tables, DISTANCE)
    if table is None or distance is None or table.is_empty():
        return None
    times, furthest = distance[0], np.maximum.accumulate(distance[1])
    starts = table["traveled_distance_cm"].to_numpy()
    begun = int(np.searchsorted(starts, furthest[-1], side="right"))
    if not begun:
        return None
    began = times[np.searchsorted(furthest, starts[:begun])]
    ends = np.append(starts[1:], np.inf)[:begun]
    structures = list((configuration.get("trial_structures") or {}).items())
    kinds = [structures[k] if k < len(structures) else (f"type {k}", {}) for k in table["trial_type_index"][:begun]]
    lengths = np.array([kind.get("trial_length_cm", 0.0) for _, kind in kinds], dtype=np.float64)
    frame = pl.DataFrame(
        {
            "start_us": began,
            "stop_us": np.append(began[1:], times[-1]),
            "trial_type": [name for name, _ in kinds],
            "start_cm": starts[:begun],
            "completed": np.minimum(ends, furthest[-1]) - starts[:begun] >= lengths - 1e-6,
        }
    )
    more = (*_zones(tables, starts[:begun], ends), *_rewarded(tables, began), *_guided(tables, frame))
    return frame.with_columns(*more)


def _zones(tables: Tables, starts: Numbers, ends: Numbers) -> list[pl.Series]:
    """Return where each trial's reward zone begins and ends; null for a trial without one."""
    names = ("reward_zone_start_cm", "reward_zone_end_cm")
    table = tables.get(f"{_FOLDER}/vr_reward_zone_data")
    if table is None:
        return []
    begins = table[names[0]].to_numpy()
    index = np.searchsorted(begins, starts)
    there = (index < len(begins)) & (np.append(begins, np.inf)[index] < ends)
    rows = [int(i) if ok else None for i, ok in zip(index, there, strict=True)]
    return [pl.Series(name, [None if i is None else table[name][i] for i in rows], dtype=pl.Float64) for name in names]


def _rewarded(tables: Tables, began: Numbers) -> list[pl.Series]:
    given = rewards(tables)
    if given is None:
        return []
    before = np.searchsorted(given[0], began)
    return [pl.Series("rewarded", np.diff(before, append=len(given[0])) > 0)]


def _guided(tables: Tables, frame: pl.DataFrame) -> list[pl.Series]:
    guidance = column(tables, GUIDANCE)
    if guidance is None:
        return []
    first = guidance[0][0]  # a first trial may begin just before the state is logged
    values = held(guidance, np.maximum(frame["start_us"].to_numpy(), first)) > 0
    known = frame["stop_us"].to_numpy() > first
    guided = [bool(value) if there else None for value, there in zip(values, known, strict=True)]
    return [pl.Series("guided", guided, dtype=pl.Boolean)]
