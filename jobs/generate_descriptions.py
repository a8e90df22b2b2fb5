"""What the acquisition program writes about a session beside its recordings: all invented, in the lab's own form."""

from __future__ import annotations

from typing import Any

from jobs.generate_logs import CM_PER_PULSE, CUE_CM, LICK_THRESHOLD, TRIALS
from trackers.names import SessionTypes
from trackers.session import SESSION_DATA

CUE_OFFSET_CM = 10.0
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


def descriptions(
    project: str, animal: str, name: str, kind: SessionTypes, *, seconds: float = 30.0, complete: bool = True
) -> dict[str, Any]:
    """Return a session's YAML files, by name.

    `seconds` is how long it is; `complete`, whether it was acquired in full.
    """
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
        found["experiment_configuration.yaml"] = _experiment(seconds)
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


def _experiment(seconds: float) -> dict[str, Any]:
    state = {"system_state_code": 2, "state_duration_s": seconds, "initial_guided_trials": 3}
    return {
        "cue_map": dict.fromkeys(range(5), CUE_CM),
        "cue_offset_cm": CUE_OFFSET_CM,
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
