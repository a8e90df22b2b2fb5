"""Behavior in an NWB file: every logged channel as it is, position and speed, licks, rewards, trials, the corridor."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from hdmf.backends.hdf5 import H5DataIO
from hdmf.common import DynamicTable, VectorData
from numpy.typing import NDArray
from pynwb import NWBFile, ProcessingModule, TimeSeries
from pynwb.behavior import Position, SpatialSeries
from pynwb.event import DurationVectorData, EventsTable, TimestampVectorData

from jobs import forging_behavior as behavior
from jobs.forging_sources import Sources

_HOLDS = "Each value holds until the next one."
_TRIAL_COLUMNS = {
    "trial_type": "Name of the trial's structure in experiment_configuration.yaml.",
    "start_cm": "Distance run when the trial began, cm.",
    "reward_zone_start_cm": "Distance at which the reward zone begins, cm; NaN: the trial was broken off before.",
    "reward_zone_end_cm": "Distance at which the reward zone ends, cm.",
    "rewarded": "Whether water was dispensed in the trial.",
    "guided": "Whether rewards came without a lick.",
    "completed": "Whether the animal ran to the trial's end.",
}


def compressed(data: Any) -> H5DataIO:
    """Wrap an array so that it is stored compressed."""
    return H5DataIO(data, compression="gzip", compression_opts=4)


def times(times_us: NDArray[Any], start_us: int) -> dict[str, Any]:
    """Return a clock as NWB wants it: a regular one as start and rate, which then is exact, any other one as it is."""
    seconds = (times_us - start_us) / 1e6
    steps = np.diff(times_us)
    if len(steps) > 1 and steps[0] > 0 and (steps == steps[0]).all():
        return {"starting_time": float(seconds[0]), "rate": 1e6 / float(steps[0])}
    return {"timestamps": compressed(seconds)}


def add(file: NWBFile, sources: Sources) -> None:
    """Add what the session has of behavior."""
    module = file.create_processing_module("behavior", "What the animal did and what it met, from the hardware's logs.")
    _channels(module, sources)
    _movement(module, sources)
    _events(file, sources)
    _trials(file, sources)
    _corridor(module, sources)
    if not module.data_interfaces:
        file.processing.pop("behavior")


def _channels(module: ProcessingModule, sources: Sources) -> None:
    meanings = _meanings(sources)
    for channel in behavior.CHANNELS:
        found = behavior.column(sources.tables, channel)
        if found is None:
            continue
        module.add(
            TimeSeries(
                name=channel.name,
                description=f"{channel.description}{meanings.get(channel.name, '')} {_HOLDS}",
                comments=f"{channel.table}: {channel.column}",
                data=compressed(found[1]),
                unit=channel.unit,
                conversion=channel.conversion,
                continuity="step",
                **times(found[0], sources.start_us),
            )
        )


def _meanings(sources: Sources) -> dict[str, str]:
    """Say what the codes of states mean, as the session's configuration does."""
    systems = sources.descriptions["hardware_state"].get("system_state_codes") or {}
    states = sources.descriptions["experiment_configuration"].get("experiment_states") or {}
    codes = {name: state.get("experiment_state_code") for name, state in states.items()}
    return {
        channel.name: f": {', '.join(f'{code} {name}' for name, code in known.items()) or 'codes without names'}."
        for channel, known in ((behavior.SYSTEM, systems), (behavior.EXPERIMENT, codes))
    }


def _movement(module: ProcessingModule, sources: Sources) -> None:
    distance, speed = behavior.column(sources.tables, behavior.DISTANCE), behavior.speed(sources.tables)
    if distance is not None:
        series = SpatialSeries(
            name=behavior.DISTANCE.name,
            description=f"{behavior.DISTANCE.description} {_HOLDS}",
            comments=f"{behavior.DISTANCE.table}: {behavior.DISTANCE.column}",
            reference_frame="Where the wheel stood at the session's start.",
            data=compressed(distance[1]),
            unit=behavior.DISTANCE.unit,
            conversion=behavior.DISTANCE.conversion,
            **times(distance[0], sources.start_us),
        )
        module.add(Position(name="Position", spatial_series=series))
    if speed is not None:
        clock = speed[0] + np.arange(len(speed[1])) * behavior.SPEED_STEP_US
        module.add(
            TimeSeries(
                name="running_speed",
                description=f"Distance gained in the {behavior.SPEED_WINDOW_US / 1e3:g} ms around each time, a second.",
                comments=f"{behavior.DISTANCE.table}: derived from {behavior.DISTANCE.column}",
                data=compressed(speed[1]),
                unit="m/s",
                conversion=0.01,
                **times(clock, sources.start_us),
            )
        )


def _events(file: NWBFile, sources: Sources) -> None:
    licks, rewards = behavior.licks(sources.tables), behavior.rewards(sources.tables)
    if licks is not None and len(licks[0]):
        durations = (licks[1] - licks[0]) / 1e6
        column: Any = DurationVectorData(name="duration", description="How long the tongue stayed, s.", data=durations)
        what = "Contacts of the tongue with the lick tube, from the state of the lick sensor."
        file.add_events_table(_events_table("licks", what, behavior.LICK_STATE, licks[0], column, sources))
    if rewards is not None and len(rewards[0]):
        column = VectorData(name="volume_uL", description="Water dispensed, microliters.", data=rewards[1])
        what = "Rewards, when the valve closed."
        file.add_events_table(_events_table("rewards", what, behavior.VOLUME, rewards[0], column, sources))


def _events_table(
    name: str, description: str, channel: behavior.Channel, times_us: NDArray[Any], column: Any, sources: Sources
) -> EventsTable:
    seconds = (times_us - sources.start_us) / 1e6
    stamps = TimestampVectorData(name="timestamp", description="When it happened, s.", data=seconds)
    source = f"{channel.table}: {channel.column}"
    return EventsTable(name=name, description=description, source_description=source, columns=[stamps, column])


def _trials(file: NWBFile, sources: Sources) -> None:
    trials = sources.trials
    if trials is None:
        return
    for name, description in _TRIAL_COLUMNS.items():
        if name in trials.columns:
            file.add_trial_column(name, description)
    for row in trials.iter_rows(named=True):
        at = {f"{name}_time": (row.pop(f"{name}_us") - sources.start_us) / 1e6 for name in ("start", "stop")}
        file.add_trial(**at, **{name: _without_null(name, value) for name, value in row.items()})


def _without_null(name: str, value: Any) -> Any:
    """Return a value of a trial as an NWB column can hold it."""
    if name == "guided":
        return "unknown" if value is None else "guided" if value else "not guided"
    return float("nan") if value is None else value


def _corridor(module: ProcessingModule, sources: Sources) -> None:
    """Add what stands where in the corridor, which has no time: also the part that the animal did not reach."""
    for name, description, columns in (
        (
            "vr_cue_data",
            "The corridor's cues.",
            {"vr_cue": "Number of the cue.", "traveled_distance_cm": "Where it begins, cm."},
        ),
        (
            "vr_reward_zone_data",
            "The corridor's reward zones.",
            {"reward_zone_start_cm": "Where it begins, cm.", "reward_zone_end_cm": "Where it ends, cm."},
        ),
    ):
        table = sources.tables.get(f"behavior_data/{name}")
        if table is not None:
            made = [VectorData(name=c, description=words, data=_numbers(table[c])) for c, words in columns.items()]
            module.add(DynamicTable(name=name.removesuffix("_data"), description=description, columns=made))


def _numbers(column: pl.Series) -> NDArray[Any]:
    return column.to_numpy()
