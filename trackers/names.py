"""The names that the lab's files and programs share, and the rules for the names that people choose."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from enum import IntEnum, StrEnum

from trackers.errors import InvalidNameError

MAXIMUM_NAME_BYTES = 255
_FOURTH = "([02468][048]|[13579][26])"  # what is divisible by four, of two digits
DAY_PATTERN = (
    rf"(?!0000)(?=.{{5}}(?!02-29)|..(?!00){_FOURTH}|{_FOURTH}00)"  # leap years
    r"(?!.{5}(02-3|(0[469]|11)-31))"  # shorter months
    r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
)
"""A day that there is, `YYYY-MM-DD`."""

SESSION_PATTERN = DAY_PATTERN + r"-([01][0-9]|2[0-3])(-[0-5][0-9]){2}-[0-9]{6}"
"""The whole name of a session, `YYYY-MM-DD-HH-MM-SS-ffffff`: a date and time that there is.

It is a pattern because Prefect's server, which refuses parameters before anything starts, knows no other rules.
"""
_PUNCTUATION = frozenset(" _-.+")
_NAME_CATEGORIES = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd"})  # letters, their marks, digits


class ProcessingPipelines(StrEnum):
    """The pipelines, under the names that sl-shared-assets 5.1.0 gives them; it knows no report."""

    MANIFEST = "manifest generation"
    CHECKSUM = "checksum resolution"
    PREPARATION = "processing preparation"
    BEHAVIOR = "behavior processing"
    SUITE2P = "single-day suite2p processing"
    VIDEO = "video processing"
    MULTIDAY = "multi-day suite2p processing"
    FORGING = "dataset forging"
    REPORT = "session report"
    ARCHIVING = "data archiving"


class TrackerFileNames(StrEnum):
    """The file in which each pipeline's status stands; members are named as in `ProcessingPipelines`."""

    MANIFEST = "manifest_generation_tracker.yaml"
    CHECKSUM = "checksum_resolution_tracker.yaml"
    PREPARATION = "processing_preparation_tracker.yaml"
    BEHAVIOR = "behavior_processing_tracker.yaml"
    SUITE2P = "suite2p_processing_tracker.yaml"
    VIDEO = "video_processing_tracker.yaml"
    MULTIDAY = "multiday_processing_tracker.yaml"
    FORGING = "dataset_forging_tracker.yaml"
    REPORT = "session_report_tracker.yaml"
    ARCHIVING = "data_archiving_tracker.yaml"


class ProcessingStatus(IntEnum):
    """How a pipeline's run stands or ended."""

    RUNNING = 0
    SUCCEEDED = 1
    FAILED = 2
    ABORTED = 3


class SessionTypes(StrEnum):
    """What kind of recording a session is."""

    LICK_TRAINING = "lick training"
    RUN_TRAINING = "run training"
    MESOSCOPE_EXPERIMENT = "mesoscope experiment"
    WINDOW_CHECKING = "window checking"


class AcquisitionSystems(StrEnum):
    """The instruments that record sessions."""

    MESOSCOPE_VR = "mesoscope-vr"


def validate_name(name: str, what: str) -> str:
    """Return `name` if it can be one path component; `what` ("project", "animal", …) is for the error.

    Allowed are letters of any script with their combining marks, digits, spaces and `_ - . +`; no leading dash or dot,
    no two dots in a row, no space at either end, at most 255 bytes of UTF-8.

    Raises:
        InvalidNameError: the name breaks one of these rules.
    """
    if not isinstance(name, str) or not name:
        raise InvalidNameError(what, name, "it is empty or no text")
    wrong = sorted({c for c in name if not _is_name_character(c)})
    if wrong:
        shown = ", ".join(repr(c) for c in wrong)
        raise InvalidNameError(what, name, f"{shown} is not allowed; use letters, digits, spaces and _ - . +")
    if name[0] in "-.":
        raise InvalidNameError(what, name, "it begins with a dash or a dot")
    if ".." in name:
        raise InvalidNameError(what, name, "it has two dots in a row")
    if name != name.strip():
        raise InvalidNameError(what, name, "it begins or ends with a space")
    if len(name.encode()) > MAXIMUM_NAME_BYTES:
        raise InvalidNameError(what, name, f"it is longer than {MAXIMUM_NAME_BYTES} bytes")
    return name


def session_time(name: str) -> datetime:
    """Return the UTC time that a session's name stands for.

    Raises:
        InvalidNameError: the name is not a timestamp `YYYY-MM-DD-HH-MM-SS-ffffff`, or there is no such date or time.
    """
    if not isinstance(name, str) or not re.fullmatch(SESSION_PATTERN, name):
        reason = "a session is named by its UTC time, YYYY-MM-DD-HH-MM-SS-ffffff, a date and time that there is"
        raise InvalidNameError("session", name, reason)
    return datetime.strptime(name, "%Y-%m-%d-%H-%M-%S-%f").replace(tzinfo=UTC)


def validate_session_name(name: str) -> str:
    """Return `name` if it is a session's: a UTC timestamp.

    Raises:
        InvalidNameError: it is not.
    """
    session_time(name)
    return name


def _is_name_character(character: str) -> bool:
    return character in _PUNCTUATION or unicodedata.category(character) in _NAME_CATEGORIES
