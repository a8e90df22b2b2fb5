"""What a form refuses before anything starts: names that can be none."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.forging import forging
from flows.multiday import multiday
from flows.process_project import process_project
from flows.process_session import process_session
from flows.retention import retention
from tests.conftest import SESSION

GOOD = {"project": "Project", "animal": "305", "session": SESSION}


def refusal(flow: object, given: dict[str, Any]) -> str:
    """Return what Prefect's server says of the parameters of a run; empty where it starts it."""
    try:
        validate(given, flow.parameters.model_dump(), raise_on_error=True)  # type: ignore[attr-defined]
    except ValidationError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["305", "Mouse 7", "Žluťoučký", "प्रयोग", "マウス", "a_b-c.d+e"])
def test_a_name_in_any_script_starts_a_run(name: str) -> None:
    assert refusal(process_session, {**GOOD, "project": name, "animal": name}) == ""
    assert refusal(process_project, {"project": name}) == ""


@pytest.mark.parametrize(
    "name", ["", "..", "a..b", ".hidden", "-rf", "../a", "a/b", "a\\b", "a\nb", "$(id)", "a'b", "a;b", " a"]
)
def test_a_name_that_can_be_none_starts_nothing_and_is_told_what_one_is(name: str) -> None:
    for flow, given in (
        (process_session, {**GOOD, "animal": name}),
        (process_project, {"project": name}),
        (forging, {"project": "Project", "dataset": name}),
    ):
        assert "letters, digits, spaces and _ - . +" in refusal(flow, given)


@pytest.mark.parametrize("days", [-1, 0, 1e9, "all"])
def test_what_is_no_number_of_days_removes_nothing(days: object) -> None:
    assert "for field 'days'" in refusal(retention, {"days": days})


NO_SESSIONS = [
    "",
    "yesterday",
    "2025-08-26",
    f"{SESSION} ",
    *(f"2025-{no}-18-30-15-123456" for no in ("13-40", "02-29")),
]


@pytest.mark.parametrize("name", [f"305/{SESSION}", *NO_SESSIONS])
def test_what_is_no_sessions_name_starts_nothing_and_is_told_how_they_are_named(name: str) -> None:
    told = "YYYY-MM-DD-HH-MM-SS-ffffff, a UTC date and time that there is"
    assert told in refusal(process_session, {**GOOD, "session": name})
    several = {"project": "Project", "sessions": [SESSION, name]}
    assert told in refusal(process_project, several)
    assert told in refusal(multiday, {**several, "animal": "305", "dataset": "days"})


@pytest.mark.parametrize("name", [SESSION, *(f"305/{name}" for name in NO_SESSIONS)])
def test_what_is_no_animals_session_starts_no_forging(name: str) -> None:
    several = {"project": "Project", "dataset": "days"}
    assert "ANIMAL/YYYY-MM-DD-HH-MM-SS-ffffff" in refusal(forging, {**several, "sessions": [name]})
    assert refusal(forging, {**several, "sessions": [f"Žluťoučký 7/{SESSION}"]}) == ""


@pytest.mark.parametrize("day", ["2025-02-31", "2025-13-01", "yesterday", "2025-02-03T10:00:00Z", ""])
def test_a_day_that_there_is_not_starts_nothing_and_is_told_how_days_are_written(day: str) -> None:
    assert "YYYY-MM-DD, a day that there is" in refusal(process_project, {"project": "Project", "failed_since": day})
    for good in ("2024-02-29", None):
        assert refusal(process_project, {"project": "Project", "failed_since": good}) == ""
