"""One session as an NWB file: what holds for the whole session, and the subject. Every value is a source's own.

Times are seconds since the session's start, which is its name's time, UTC.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import yaml
from pynwb import NWBFile
from pynwb.file import Subject

from jobs import forging_nwb_behavior, forging_nwb_cameras, forging_nwb_ophys
from jobs.forging_frames import VolumeClock
from jobs.forging_sources import Sources
from jobs.forging_subject import section
from trackers.forging_settings import ForgingSettings
from trackers.names import SessionTypes, session_time

_IDS = uuid.UUID("5b0f7b1e-6f0e-5c39-9a53-7e5a9a1f6c11")  # the namespace of our objects' ids; any fixed one will do
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}
_KEYWORDS = {
    SessionTypes.MESOSCOPE_EXPERIMENT: ["two-photon calcium imaging", "mesoscope", "virtual reality", "behavior"],
    SessionTypes.RUN_TRAINING: ["behavior", "running", "training"],
    SessionTypes.LICK_TRAINING: ["behavior", "licking", "training"],
}


def nwb_file(sources: Sources, settings: ForgingSettings, clock: VolumeClock | None, created: datetime) -> NWBFile:
    """Make the file in memory; large arrays are read when it is written.

    Args:
        sources: of the session.
        settings: of its project.
        clock: of its imaging; None without.
        created: what the file's creation date is to be; not now, so that a file forged twice is the same.
    """
    paths, data = sources.paths, sources.data
    descriptor = sources.descriptions["session_descriptor"]
    surgery = sources.descriptions["surgery_metadata"]
    what = f"{data.session_type} session" + (f" {data.experiment_name!r}" if data.experiment_name else "")
    file = NWBFile(
        session_description=f"{what} of animal {paths.animal} in project {paths.project}",
        identifier=str(paths),
        session_start_time=session_time(paths.session),
        session_id=paths.session,
        file_create_date=created,
        experiment_description=f"{what}, recorded on the {data.acquisition_system} system",
        keywords=_KEYWORDS.get(data.session_type, ["behavior"]),
        subject=_subject(sources, settings),
        **_given(
            experimenter=descriptor.get("experimenter"),
            notes=descriptor.get("experimenter_notes"),
            lab=settings.lab,
            institution=settings.institution,
            protocol=section(surgery, "procedure").get("protocol"),
            surgery=_text({key: surgery[key] for key in ("procedure", "implants") if surgery.get(key)}),
            pharmacology=_text(surgery.get("drugs")),
            virus=_text(surgery.get("injections")),
            data_collection=_text({n: dict(sources.descriptions[n]) for n in _OF_THE_RIG if sources.descriptions[n]}),
        ),
    )
    forging_nwb_behavior.add(file, sources)
    if clock is not None:
        forging_nwb_ophys.add(file, sources, settings, clock)
    forging_nwb_cameras.add(file, sources)
    for each in list(file.objects.values()):  # random ones would make every file another one
        each._AbstractContainer__object_id = str(uuid.uuid5(_IDS, f"{paths}{_place(each)}"))
    return file


_OF_THE_RIG = (
    "session_descriptor",
    "hardware_state",
    "experiment_configuration",
    "mesoscope_positions",
    "zaber_positions",
)


def _subject(sources: Sources, settings: ForgingSettings) -> Subject:
    found, animal = section(sources.descriptions["surgery_metadata"], "subject"), sources.animal
    words = [f"{key.replace('_', ' ')}: {found[key]}" for key in ("ear_punch", "cage", "status") if found.get(key)]
    return Subject(
        subject_id=sources.paths.animal,
        species=settings.species,
        sex=_SEXES.get(str(found.get("sex", "")).strip().lower(), "U"),
        description="; ".join([f"Animal {sources.paths.animal} of project {sources.paths.project}", *words]),
        **_given(
            genotype=found.get("genotype"),
            weight=None if animal.weight_kg is None else f"{animal.weight_kg:f} kg",
            date_of_birth=animal.born,
            age=animal.age(session_time(sources.paths.session)),
        ),
    )


def _given(**values: Any) -> dict[str, Any]:
    """Return the values that there are, as text where NWB wants text."""
    return {name: value if isinstance(value, datetime) else str(value) for name, value in values.items() if value}


def _text(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True) if content else ""


def _place(each: Any) -> str:
    return "" if each.parent is None else f"{_place(each.parent)}/{each.name}"
