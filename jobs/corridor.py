"""Tables of the acquisition program's own log: states, and the corridor that the animal ran through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from jobs.logs import Messages
from trackers.errors import SessionDataError

CUE_SEQUENCE_BYTES = 500  # a longer payload is a sequence of cues
STATES = {  # code → table, column; the first two exist for every session, the others for experiments
    1: ("system_state_data", "system_state"),
    2: ("experiment_state_data", "experiment_state"),
    3: ("guidance_state_data", "lick_guidance_state"),
    4: ("reward_visibility_state_data", "reward_visibility_state"),
}
RESTART_CODE = 5  # followed by the distance run so far, cm, int64: a new sequence begins there
_OF_EVERY_SESSION = (1, 2)


@dataclass(frozen=True)
class Trial:
    """A kind of trial; lengths and places in cm from its start."""

    cues: tuple[int, ...]
    length: float
    reward_start: float
    reward_end: float


@dataclass(frozen=True)
class Corridor:
    """What experiment_configuration.yaml says of the corridor.

    Attributes:
        cue_lengths: cm, by cue.
        offset: how far inside the first cue the animal starts, cm.
        trials: in the file's order, which numbers them.
    """

    cue_lengths: dict[int, float]
    offset: float
    trials: tuple[Trial, ...]

    @classmethod
    def from_yaml(cls, data: dict[str, Any]) -> Corridor:
        """Read it.

        Raises:
            SessionDataError: something is missing or no number.
        """
        try:
            corridor = cls(
                {int(cue): float(length) for cue, length in data["cue_map"].items()},
                float(data["cue_offset_cm"]),
                tuple(
                    Trial(
                        tuple(int(cue) for cue in trial["cue_sequence"]),
                        float(trial["trial_length_cm"]),
                        float(trial["reward_zone_start_cm"]),
                        float(trial["reward_zone_end_cm"]),
                    )
                    for trial in data["trial_structures"].values()
                ),
            )
            for cue in {cue for trial in corridor.trials for cue in bytes(trial.cues)}:  # a cue is a byte in the log
                corridor.cue_lengths[cue]
            return corridor
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SessionDataError(
                f"experiment_configuration.yaml does not describe the corridor ({error!r}). Nothing was written."
            ) from None


@dataclass(frozen=True)
class Run:
    """One run through a trial: its kind, from where to where (cm since the session's start)."""

    kind: int
    start: float
    end: float


def runtime_tables(messages: Messages, corridor: Corridor | None) -> dict[str, pl.DataFrame]:
    """Return the tables of log 1 by name; without a corridor only those that every session has.

    Raises:
        SessionDataError: the cue sequences cannot be cut into the trials that the configuration knows.
    """
    states: dict[int, list[tuple[int, int]]] = {code: [] for code in STATES}
    sequences, restarts = [], []
    for time, payload in messages:
        if len(payload) > CUE_SEQUENCE_BYTES:
            sequences.append(payload)
        elif len(payload) >= 2 and payload[0] in states:
            states[payload[0]].append((time, payload[1]))
        elif len(payload) >= 9 and payload[0] == RESTART_CODE:
            restarts.append(float(int.from_bytes(payload[1:9], "little", signed=True)))
    shown = STATES if corridor else _OF_EVERY_SESSION
    tables = {
        STATES[code][0]: pl.DataFrame(
            {
                "time_us": np.array([time for time, _ in states[code]], dtype=np.uint64),
                STATES[code][1]: np.array([value for _, value in states[code]], dtype=np.uint8),
            }
        )
        for code in shown
    }
    if corridor is not None:
        tables.update(_corridor_tables(runs_of(sequences, restarts, corridor), corridor))
    return tables


def runs_of(sequences: list[bytes], restarts: list[float], corridor: Corridor) -> list[Run]:
    """Cut sequences of cues into trials, longest first; a sequence before a restart ends where the restart came."""
    if len(restarts) != max(0, len(sequences) - 1):
        raise SessionDataError(
            f"The runtime log has {len(sequences)} cue sequences and {len(restarts)} restarts, which do not go "
            "together. Nothing was written."
        )
    runs: list[Run] = []
    for sequence, limit in zip(sequences, [*restarts, float("inf")], strict=False):
        for kind in _trials_of(sequence, corridor):
            start = runs[-1].end if runs else 0.0
            if start >= limit:
                break
            runs.append(Run(kind, start, min(start + corridor.trials[kind].length, limit)))
    return runs


def _trials_of(sequence: bytes, corridor: Corridor) -> list[int]:
    cues = [(bytes(trial.cues), kind) for kind, trial in enumerate(corridor.trials)]
    longest_first = sorted(cues, key=lambda item: -len(item[0]))
    found, position = [], 0
    while position < len(sequence):
        for motif, kind in longest_first:
            if motif and sequence.startswith(motif, position):
                found.append(kind)
                position += len(motif)
                break
        else:
            following = list(sequence[position : position + 20])
            raise SessionDataError(
                f"The cue sequence in the runtime log is no sequence of known trials at cue {position} ({following} "
                "…). Nothing was written. Compare experiment_configuration.yaml with the task that was run."
            )
    return found


def _corridor_tables(runs: list[Run], corridor: Corridor) -> dict[str, pl.DataFrame]:
    cues, cue_starts = _cues(runs, corridor)
    zones = [
        (run.start + trial.reward_start, min(run.start + trial.reward_end, run.end))
        for run in runs
        if run.start + (trial := corridor.trials[run.kind]).reward_start <= run.end
    ]
    return {
        "vr_cue_data": pl.DataFrame(
            {"vr_cue": np.array(cues, np.uint8), "traveled_distance_cm": np.array(cue_starts, np.float64)}
        ),
        "vr_reward_zone_data": pl.DataFrame(
            {
                "reward_zone_start_cm": np.array([start for start, _ in zones], np.float64),
                "reward_zone_end_cm": np.array([end for _, end in zones], np.float64),
            }
        ),
        "trial_data": pl.DataFrame(
            {
                "trial_type_index": np.array([run.kind for run in runs], np.int32),
                "traveled_distance_cm": np.array([run.start for run in runs], np.float64),
            }
        ),
    }


def _cues(runs: list[Run], corridor: Corridor) -> tuple[list[int], list[float]]:
    """Return each cue and where it begins; a sequence begins `offset` inside its first cue."""
    cues: list[int] = []
    starts: list[float] = []
    position, offset = 0.0, corridor.offset
    for run in runs:
        covered = 0.0
        for cue in corridor.trials[run.kind].cues:
            length = corridor.cue_lengths[cue] - offset
            offset = 0.0
            cues.append(cue)
            starts.append(position)
            if covered + length > run.end - run.start:  # a restart broke the trial off within this cue
                position, offset = run.end, corridor.offset
                break
            position += length
            covered += length
    return cues, starts
