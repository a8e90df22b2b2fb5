"""Hardware logs of the example project, with what is in them known: written by the real DataLogger."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MICROSECONDS = 1_000_000
TRIALS = {  # name → cues, length cm, reward zone cm
    "four_cue": ((1, 0, 2, 0, 3, 0, 4, 0), 240.0, (208.0, 222.0)),
    "three_cue": ((1, 0, 2, 0, 3, 0), 180.0, (148.0, 162.0)),
}
CUE_CM = 30.0
CM_PER_PULSE = 0.0057652
LICK_THRESHOLD = 400
MODULE_DATA, MODULE_STATE = 7, 9  # protocols of the generation that sl_experiment_version 3.0.3 names
ON, OFF, TONE_ON, TONE_OFF, FORWARD = 52, 53, 55, 56, 51
UINT16, UINT32 = 7, 17  # prototypes of data objects
ARCHIVING_PROCESSES = 2

Message = tuple[int, bytes]


@dataclass
class Truth:
    """What a session's logs hold.

    Attributes:
        distance_cm: where the animal was at the end.
        licks: contacts with the lick tube.
        rewards: openings of the valve.
        frames: camera frames, by source.
    """

    distance_cm: float = 0.0
    licks: int = 0
    rewards: int = 0
    frames: dict[int, int] = field(default_factory=dict)


def write_logs(directory: Path, onset_us: int, seconds: float, rng: Any, *, experiment: bool) -> Truth:
    """Write a session's archives into a folder, through DataLogger as the acquisition program does.

    Args:
        directory: an existing folder; afterwards it holds `{source}_log.npz` files only.
        onset_us: UTC, µs since the epoch.
        seconds: how long the recording is.
        rng: a numpy Generator; the same one gives the same messages.
        experiment: whether there is a mesoscope, and a corridor that the animal runs through.
    """
    truth = Truth()
    sources = {
        1: runtime(seconds, rng, experiment=experiment),
        51: camera(51, seconds, truth),
        62: camera(62, seconds, truth),
        73: camera(73, seconds, truth),
        101: actor(seconds, rng, truth, experiment=experiment),
        152: sensor(seconds, rng, truth, experiment=experiment),
        203: encoder(seconds, rng, truth),
    }
    write_archives(directory, onset_us, sources)
    return truth


def write_archives(directory: Path, onset_us: int, sources: Mapping[int, Iterable[Message]]) -> None:
    """Write every source's messages, elapsed µs and payload, as `{source}_log.npz` into an existing folder."""
    from ataraxis_data_structures import DataLogger, LogPackage, assemble_log_archives

    logger = DataLogger(directory, instance_name=f"example{os.getpid()}")  # which is one on a computer
    logger.start()
    try:
        for source, messages in sources.items():
            onset = (0, onset_us.to_bytes(8, "little", signed=True))
            for elapsed, payload in (onset, *messages):
                package = LogPackage(np.uint8(source), np.uint64(elapsed), np.frombuffer(payload, dtype=np.uint8))
                logger.input_queue.put(package)
    finally:
        logger.stop()
    assemble_log_archives(logger.output_directory, max_workers=ARCHIVING_PROCESSES)
    for archive in sorted(logger.output_directory.glob("*.npz")):
        archive.rename(directory / archive.name)
    shutil.rmtree(logger.output_directory)


def runtime(seconds: float, rng: Any, *, experiment: bool) -> Iterator[Message]:
    """Give the acquisition program's states, and the corridor's cues for an experiment."""
    if experiment:
        kinds = rng.integers(0, len(TRIALS), 120)
        trials = list(TRIALS.values())
        yield 40_000, bytes(cue for kind in kinds for cue in trials[kind][0])
    yield 60_000, bytes([1, 0])
    yield 61_000, bytes([2, 0])
    if experiment:
        yield 62_000, bytes([3, 1])
        yield 63_000, bytes([4, 0])
    yield 300_000, bytes([1, 2])
    yield 301_000, bytes([2, 1])
    yield int(seconds * MICROSECONDS), bytes([1, 0])
    yield int(seconds * MICROSECONDS) + 1_000, bytes([2, 0])


def camera(source: int, seconds: float, truth: Truth) -> Iterator[Message]:
    """Give a frame every 33 ms."""
    times = range(10_000 + source, int(seconds * MICROSECONDS), 33_333)
    truth.frames[source] = len(times)
    return ((time, b"") for time in times)


def actor(seconds: float, rng: Any, truth: Truth, *, experiment: bool) -> Iterator[Message]:
    """Give the valve's openings with their tones; for an experiment also the brake and the screens."""
    if experiment:
        yield 10_000, state_message(3, OFF)
        yield 11_000, state_message(7, OFF)
        yield 200_900, state_message(7, ON)
        yield 700_900, state_message(7, OFF)
    yield 12_400, state_message(5, OFF)
    yield 12_600, state_message(5, TONE_OFF)
    times = np.sort(rng.integers(1, int(seconds) - 1, int(seconds) // 4)).astype(int)
    for second in sorted(set(times.tolist())):
        truth.rewards += 1
        start = second * MICROSECONDS
        yield start, state_message(5, TONE_ON)
        yield start + 200, state_message(5, ON)
        yield start + 200 + int(rng.integers(30_000, 40_000)), state_message(5, OFF)
        yield start + 300_000, state_message(5, TONE_OFF)


def sensor(seconds: float, rng: Any, truth: Truth, *, experiment: bool) -> Iterator[Message]:
    """Give licks; for an experiment also the mesoscope's frames and the torque."""
    messages = [(9_500, data_message(4, FORWARD, UINT16, 0))]
    for second in range(1, int(seconds)):
        for lick in range(int(rng.integers(0, 4))):
            start = second * MICROSECONDS + lick * 120_000 + 7  # no two messages of a source share a time
            truth.licks += 1
            messages.append((start, data_message(4, FORWARD, UINT16, int(rng.integers(LICK_THRESHOLD, 2000)))))
            messages.append((start + 40_000, data_message(4, FORWARD, UINT16, 0)))
    if experiment:
        messages.append((9_700, data_message(6, ON, UINT16, 0)))
        messages.append((9_900, state_message(1, OFF)))
        for frame in range(int(seconds * 10) - 10):
            messages.append((600_000 + frame * 100_000, state_message(1, ON)))
            messages.append((640_000 + frame * 100_000, state_message(1, OFF)))
        for time in range(800_000, int(seconds * MICROSECONDS), 500_000):
            messages.append((time + 13, data_message(6, FORWARD, UINT16, int(rng.integers(100, 700)))))
    return iter(sorted(messages))


def encoder(seconds: float, rng: Any, truth: Truth) -> Iterator[Message]:
    """Give forward rotations of the wheel, a few ms to tens of ms apart."""
    yield 9_000, data_message(2, ON, UINT32, 0)
    time, pulses = 310_000, 0
    while time < seconds * MICROSECONDS:
        step = int(rng.integers(15, 120))
        pulses += step
        yield time, data_message(2, FORWARD, UINT32, step)
        time += int(rng.integers(5_000, 90_000))
    truth.distance_cm = round(pulses * CM_PER_PULSE, 6)


def state_message(module: int, event: int) -> bytes:
    """Return what a module sends of an event."""
    return bytes([MODULE_STATE, module, 1, 1, event])


def data_message(module: int, event: int, prototype: int, value: int) -> bytes:
    """Return what a module sends of an event with a value."""
    size = {UINT16: 2, UINT32: 4}[prototype]
    return bytes([MODULE_DATA, module, 1, 1, event, prototype]) + value.to_bytes(size, "little")
