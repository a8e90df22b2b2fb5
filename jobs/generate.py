"""Write the example project that the demo and the tests process: `python -P -m jobs.generate STORAGE`.

Everything in it is invented, and in the lab's own formats; movies and camera videos are random bytes of a small size.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from jobs.checksum import directory_checksum
from jobs.generate_logs import CM_PER_PULSE, CUE_CM, LICK_THRESHOLD, TRIALS, Truth, write_logs
from jobs.program import Progress, Steps, run
from trackers.errors import BadInputError, FileSystemError, NotFoundError
from trackers.files import dump_yaml, locked
from trackers.names import SessionTypes, session_time, validate_name
from trackers.session import CHECKSUM_FILE, COMPLETE_MARKER, SESSION_DATA

DESCRIPTION = "generated.json"  # in the project's folder: what was generated, for those who compare
SECONDS = 30.0
GENERATION_SECONDS = 300.0  # that a second one waits for the first
FIRST_SESSION = datetime(2025, 8, 26, 18, 30, 15, 123456, tzinfo=UTC)
PLAN = (  # animal, days after the first session, type, what is wrong with it
    ("305", 0, SessionTypes.MESOSCOPE_EXPERIMENT, "good"),
    ("305", 1, SessionTypes.RUN_TRAINING, "damaged"),
    ("306", 0, SessionTypes.RUN_TRAINING, "good"),
    ("306", 1, SessionTypes.LICK_TRAINING, "incomplete"),
)
CALIBRATION = {
    "cm_per_pulse": CM_PER_PULSE,
    "maximum_break_strength": 11.30234233,
    "minimum_break_strength": 0.42383811,
    "lick_threshold": LICK_THRESHOLD,
    "valve_scale_coefficient": 1.2e-07,
    "valve_nonlinearity_exponent": 1.6612,
    "torque_per_adc_unit": 0.01003404,
    "screens_initially_on": False,
    "recorded_mesoscope_ttl": True,
    "system_state_codes": {"idle": 0, "rest": 1, "run": 2, "lick training": 3, "run training": 4},
}
OF_EXPERIMENTS = (
    *("maximum_break_strength", "minimum_break_strength", "torque_per_adc_unit"),
    *("screens_initially_on", "recorded_mesoscope_ttl"),
)


@dataclass(frozen=True)
class DemoSession:
    """A generated session.

    Attributes:
        kind: good, damaged (a byte differs from what was checksummed) or incomplete (no telomere.bin).
        truth: what its logs hold.
    """

    animal: str
    session: str
    type: str
    kind: str
    truth: Truth


@dataclass(frozen=True)
class DemoProject:
    """A generated project."""

    project: str
    seed: int
    sessions: tuple[DemoSession, ...]


def generate_project(
    storage: Path, project: str = "demo", seed: int = 1, shown: Steps = lambda _done, _total: None
) -> DemoProject:
    """Write the example project below a storage root, unless it is there; the same seed gives the same recordings.

    Their bytes are the same too where Python and numpy have the same versions: the headers of zip files differ between
    versions of Python, and with them the sessions' checksums.

    Raises:
        BadInputError: there is no such root; there is a folder of that name which was not generated, and is left
            alone; or the seed is negative.
        FileSystemError: the root cannot be written to; what was begun has been removed.
    """
    validate_name(project, "project")
    if seed < 0:
        raise BadInputError(f"{seed} is no seed: it must be 0 or more. Nothing was written.")
    if not storage.is_dir():
        raise NotFoundError(f"There is no directory {storage}. Nothing was written. Create it first.")
    if (found := existing_project(storage, project)) is not None:
        return found
    staging = storage / f".{project}.generating"
    with locked(staging, timeout=GENERATION_SECONDS):
        if (found := existing_project(storage, project)) is not None:
            return found  # by one that ran at the same time
        shutil.rmtree(staging, ignore_errors=True)  # left by one that was killed
        try:
            return _generate(staging, storage / project, seed, shown)
        except OSError as error:
            raise FileSystemError(
                f"The example project could not be written to {storage}: {error.strerror or error}. What was begun "
                "has been removed."
            ) from error
        finally:
            for child in multiprocessing.active_children():  # the logger's, which would go on writing
                child.kill()
                child.join()
            shutil.rmtree(staging, ignore_errors=True)


def existing_project(storage: Path, project: str = "demo") -> DemoProject | None:
    """Return what was generated below a storage root; None where nothing was.

    Raises:
        BadInputError: there is a folder of that name which was not generated.
    """
    directory = storage / project
    if not directory.exists():
        return None
    try:
        data = json.loads((directory / DESCRIPTION).read_bytes())
        sessions = tuple(DemoSession(**{**item, "truth": Truth(**item["truth"])}) for item in data.pop("sessions"))
        return DemoProject(**data, sessions=sessions)
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        raise BadInputError(
            f"{directory} is there, and no example project. Nothing was written. Choose another folder."
        ) from None


def _generate(staging: Path, directory: Path, seed: int, shown: Steps) -> DemoProject:
    sessions = []
    for number, plan in enumerate(PLAN):
        sessions.append(_session(staging, directory.name, np.random.default_rng([seed, number]), *plan))
        shown(len(sessions), len(PLAN))
    generated = DemoProject(directory.name, seed, tuple(sessions))
    (staging / DESCRIPTION).write_text(json.dumps(asdict(generated), indent=1))
    staging.rename(directory)  # last: a project that is there is whole
    return generated


def _session(
    directory: Path, project: str, rng: Any, animal: str, day: int, kind: SessionTypes, fate: str
) -> DemoSession:
    time = FIRST_SESSION + timedelta(days=day, minutes=int(animal))
    name = time.strftime("%Y-%m-%d-%H-%M-%S-%f")
    raw_data = directory / animal / name / "raw_data"
    experiment = kind is SessionTypes.MESOSCOPE_EXPERIMENT
    (raw_data / "behavior_data").mkdir(parents=True)
    for file, content in _descriptions(project, animal, name, kind, complete=fate != "incomplete").items():
        (raw_data / file).write_bytes(dump_yaml(content))
    _movies(raw_data, name, rng, experiment=experiment)
    onset_us = int(session_time(name).timestamp() * 1_000_000)
    truth = write_logs(raw_data / "behavior_data", onset_us, SECONDS, rng, experiment=experiment)
    if fate != "incomplete":
        (raw_data / CHECKSUM_FILE).write_text(directory_checksum(raw_data))
        (raw_data / COMPLETE_MARKER).touch()
    if fate == "damaged":
        video = raw_data / "camera_data" / f"{name}_face_camera.mp4"
        content = bytearray(video.read_bytes())
        content[len(content) // 2] ^= 0x10
        video.write_bytes(content)
    return DemoSession(animal, name, kind.value, fate, truth)


def _movies(raw_data: Path, name: str, rng: Any, *, experiment: bool) -> None:
    files = [f"camera_data/{name}_{camera}_camera.mp4" for camera in ("face", "left", "right")]
    if experiment:
        files += ["mesoscope_data/mesoscope_000001_000100.tiff", "mesoscope_data/MotionEstimator.me"]
    for file in files:
        path = raw_data / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.bytes(int(rng.integers(200_000, 400_000))))


def _descriptions(project: str, animal: str, name: str, kind: SessionTypes, *, complete: bool) -> dict[str, Any]:
    experiment = kind is SessionTypes.MESOSCOPE_EXPERIMENT
    found: dict[str, Any] = {
        SESSION_DATA: {
            "project_name": project,
            "animal_id": animal,
            "session_name": name,
            "session_type": kind.value,
            "acquisition_system": "mesoscope-vr",
            "experiment_name": "two_corridors" if experiment else None,
            "python_version": "3.11.13",
            "sl_experiment_version": "3.0.3",
            "raw_data": None,
            "processed_data": None,
        },
        "session_descriptor.yaml": _descriptor(kind, complete=complete),
        "hardware_state.yaml": {
            key: value if experiment or key not in OF_EXPERIMENTS else None for key, value in CALIBRATION.items()
        },
        "surgery_metadata.yaml": _surgery(animal),
        "zaber_positions.yaml": {"headbar_z": 100_101, "lickport_z": 200_300, "wheel_x": 120_500},
    }
    if experiment:
        found["experiment_configuration.yaml"] = _experiment()
        found["mesoscope_positions.yaml"] = {"mesoscope_x": 1.5, "mesoscope_y": -2.25, "laser_power_mw": 126.0}
    return found


def _descriptor(kind: SessionTypes, *, complete: bool) -> dict[str, Any]:
    common: dict[str, Any] = {
        "experimenter": "example",
        "mouse_weight_g": 21.4,
        "maximum_unconsumed_rewards": 1,
        "dispensed_water_volume_ml": 0.64,
        "pause_dispensed_water_volume_ml": 0.0,
        "experimenter_given_water_volume_ml": 0.1,
        "preferred_session_water_volume_ml": 0.9,
        "incomplete": not complete,
        "experimenter_notes": "Ran well." if complete else "The lick tube came loose; stopped.",
    }
    if kind is SessionTypes.RUN_TRAINING:
        common |= {"initial_run_speed_threshold_cm_s": 0.8, "final_run_speed_threshold_cm_s": 1.15}
    if kind is SessionTypes.LICK_TRAINING:
        common |= {"minimum_reward_delay_s": 6, "maximum_reward_delay_s": 18}
    return common


def _experiment() -> dict[str, Any]:
    state = {"system_state_code": 2, "state_duration_s": SECONDS, "initial_guided_trials": 3}
    return {
        "cue_map": dict.fromkeys(range(5), CUE_CM),
        "cue_offset_cm": 10.0,
        "unity_scene_name": "ExampleScene",
        "experiment_states": {"experiment": {"experiment_state_code": 1, **state}},
        "trial_structures": {
            name: {
                "cue_sequence": list(cues),
                "trial_length_cm": length,
                "trial_reward_size_ul": 5.0,
                "reward_zone_start_cm": zone[0],
                "reward_zone_end_cm": zone[1],
                "guidance_trigger_location_cm": zone[0],
            }
            for name, (cues, length, zone) in TRIALS.items()
        },
    }


def _surgery(animal: str) -> dict[str, Any]:
    return {
        "subject": {"id": int(animal), "sex": "F", "genotype": "WT", "date_of_birth_us": 1_735_689_600_000_000},
        "procedure": {"surgery_start_us": 1_749_546_000_000_000, "surgeon": "example", "surgery_quality": 2},
        "drugs": {"ketoprofen_volume_ml": 0.1, "ketoprofen_code": "KET-1"},
        "implants": [{"implant": "window", "implant_target": "CA1", "implant_code": "WIN-3"}],
        "injections": [{"injection": "indicator", "injection_target": "CA1", "injection_volume_nl": 250.0}],
    }


def main() -> None:
    """Carry out the command line; print what was generated as JSON."""
    parser = argparse.ArgumentParser(description="Writes a small example project.")
    parser.add_argument("storage", type=Path, help="existing folder that is to hold the project")
    parser.add_argument("--project", default="demo")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    shown = Progress(0, "sessions").show
    print(json.dumps(asdict(generate_project(arguments.storage, arguments.project, arguments.seed, shown))))


if __name__ == "__main__":
    run(main)
