"""Write whole sessions with a known truth: cells, behavior, cameras and clocks. Needs the extra `science`.

The truth of a session is `.truth/{animal}/{session}.npz` in the project's folder, outside of what pipelines read. It
has all that `write_imaging` returns, and in µs UTC:

- `frame_time_us` (volumes,): each volume's onset
- `distance_time_us`, `distance_cm`: what the wheel measured
- `lick_time_us`: beginnings of contacts; `reward_time_us`: closings of the valve
- `camera_time_us`, `marker_x`, `marker_y`, `speed_cm_s`: by frame of the cameras, the speed since the frame before
- `defects`, `drift_ppm`: what was asked for
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from jobs.generate import FIRST_SESSION, DemoProject, DemoSession, finish_session, write_once
from jobs.generate_animal import CAMERAS, FIRST_VOLUME_US, Behavior, behave
from jobs.generate_defects import Defect
from jobs.generate_descriptions import descriptions
from jobs.generate_imaging import PHYSICS, SIZES, Size, write_imaging
from jobs.generate_logs import MICROSECONDS, Truth, write_archives
from jobs.generate_movie import marker, write_movie
from jobs.program import Steps
from trackers.errors import BadInputError
from trackers.files import dump_yaml
from trackers.names import SessionTypes, session_time

TRUTH = ".truth"
FIRST_ANIMAL = 305
MARGIN_SECONDS = 2.0  # that the other hardware runs longer than the mesoscope
WHEEL_ZERO_US = 9_000  # the encoder's first message


def generate_science(
    storage: Path,
    project: str = "demo",
    *,
    size: str = "ci",
    physics: str = "A",
    days: int = 2,
    animals: int = 1,
    seed: int = 1,
    rois: int = 1,
    drift_ppm: float = 0.0,
    defects: Sequence[str] = (),
    shown: Steps = lambda _done, _total: None,
) -> DemoProject:
    """Write a project of mesoscope experiments below a storage root, unless it is there; the same seed gives the same.

    Args:
        storage: existing folder that is to hold the project.
        project: its name.
        size: "ci", "small" or "realistic".
        physics: "A" or "B": how cells, neuropil, noise and motion are.
        days: good sessions of each animal, a day apart, with the same cells.
        animals: how many.
        seed: 0 or more.
        rois: of the mesoscope.
        drift_ppm: by how many millionths the mesoscope's clock is slower than that of everything else.
        defects: each is planted in one more session of the first animal, on the days after the good ones.
        shown: is told how many sessions are written.

    Raises:
        BadInputError: a value is none of these; or there is a folder of that name which was not generated so.
        FileSystemError: the root cannot be written to; what was begun has been removed.
    """
    asked = {"size": size, "physics": physics, "days": days, "animals": animals, "seed": seed, "rois": rois}
    asked |= {"drift_ppm": drift_ppm, "defects": list(defects)}
    _check(asked)
    plan = [(str(FIRST_ANIMAL + n), n, day, "") for n in range(animals) for day in range(days)]
    plan += [(str(FIRST_ANIMAL), 0, days + n, defect) for n, defect in enumerate(defects)]

    def write(staging: Path) -> DemoProject:
        sessions = []
        for animal, number, day, defect in plan:
            recording = replace(SIZES[size], rois=rois)
            faults = (Defect(defect),) if defect else ()
            made = _session(staging, project, animal, recording, physics, 1_000 * seed + number, day, drift_ppm, faults)
            sessions.append(made)
            shown(len(sessions), len(plan))
        return DemoProject(project, seed, tuple(sessions), asked)

    found = write_once(storage, project, seed, write)
    if found.science != asked:
        raise BadInputError(
            f"{storage / project} is there, generated otherwise: {found.science or 'the plain example'}. Nothing was "
            "written. Choose another folder or project."
        )
    return found


def _check(asked: dict[str, Any]) -> None:
    for key, known in (("size", SIZES), ("physics", PHYSICS)):
        if asked[key] not in known:
            raise BadInputError(f"{key} {asked[key]!r}: known are {', '.join(known)}. Nothing was written.")
    if unknown := sorted(set(asked["defects"]) - set(Defect)):
        raise BadInputError(f"{', '.join(unknown)}: known defects are {', '.join(Defect)}. Nothing was written.")
    if min(asked["days"], asked["animals"], asked["rois"]) < 1 or not abs(asked["drift_ppm"]) < 10_000:
        raise BadInputError(f"{asked}: days, animals and rois are at least 1, a drift is small. Nothing was written.")


def _session(
    directory: Path,
    project: str,
    animal: str,
    size: Size,
    physics: str,
    animal_seed: int,
    day: int,
    drift_ppm: float,
    defects: tuple[Defect, ...],
) -> DemoSession:
    name = (FIRST_SESSION + timedelta(days=day, minutes=int(animal))).strftime("%Y-%m-%d-%H-%M-%S-%f")
    kind, raw_data = SessionTypes.MESOSCOPE_EXPERIMENT, directory / animal / name / "raw_data"
    for folder in ("behavior_data", "camera_data", "mesoscope_data"):
        (raw_data / folder).mkdir(parents=True)
    seconds = FIRST_VOLUME_US / MICROSECONDS + size.volumes / size.rate * (1 + drift_ppm * 1e-6) + MARGIN_SECONDS
    for file, content in descriptions(project, animal, name, kind, seconds=seconds).items():
        (raw_data / file).write_bytes(dump_yaml(content))
    rng = np.random.default_rng([animal_seed, 3, day])
    behavior = behave(seconds, size.volumes, size.rate, drift_ppm, rng, defects)
    onset_us = int(session_time(name).timestamp() * MICROSECONDS)
    write_archives(raw_data / "behavior_data", onset_us, behavior.sources())
    truth = write_imaging(raw_data / "mesoscope_data", size, PHYSICS[physics], animal_seed, day, defects)
    truth |= _truth(behavior, onset_us, truth["volume"])
    for source, camera in CAMERAS.items():
        x, y = marker(np.interp(behavior.cameras[source], behavior.time, behavior.distance))
        movie = raw_data / "camera_data" / f"{name}_{camera}_camera.mp4"
        write_movie(movie, x, y, np.random.default_rng([animal_seed, 4, day, source]))
    finish_session(raw_data)
    (directory / TRUTH / animal).mkdir(parents=True, exist_ok=True)
    sync: dict[str, Any] = {
        "drift_ppm": drift_ppm,
        "defects": np.array([str(defect) for defect in defects], dtype=np.str_),
    }
    np.savez_compressed(directory / TRUTH / animal / f"{name}.npz", **truth, **sync)
    held = Truth(
        distance_cm=round(float(truth["distance_cm"][-1]), 6),
        licks=len(behavior.lick),
        rewards=len(behavior.reward_close),
        frames={source: len(times) for source, times in behavior.cameras.items()},
    )
    return DemoSession(animal, name, kind.value, defects[0].value if defects else "good", held)


def _truth(behavior: Behavior, onset_us: int, volume: Any) -> dict[str, Any]:
    """Return what is true of behavior and clocks; where one camera stopped, of another's frames."""
    frames = max(behavior.cameras.values(), key=len)
    distance = np.interp(frames, behavior.time, behavior.distance)
    x, y = marker(distance)
    speed = np.diff(distance, prepend=distance[0]) / np.diff(frames, prepend=frames[0] - 1) * MICROSECONDS
    return {
        "frame_time_us": onset_us + behavior.volumes[volume],
        "distance_time_us": onset_us + np.concatenate(([WHEEL_ZERO_US], behavior.pulse_time)),
        "distance_cm": np.concatenate(([0.0], behavior.wheel_distance)),
        "lick_time_us": onset_us + behavior.lick,
        "reward_time_us": onset_us + behavior.reward_close,
        "camera_time_us": onset_us + frames,
        "marker_x": x,
        "marker_y": y,
        "speed_cm_s": speed,
    }
