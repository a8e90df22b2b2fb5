"""What a form refuses before anything starts: names that can be none."""

from __future__ import annotations

import pytest
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.forging import forging
from flows.process_project import process_project
from flows.process_session import process_session
from tests.conftest import SESSION

GOOD = {"project": "Project", "animal": "305", "session": SESSION}


def refusal(flow: object, given: dict[str, str]) -> str:
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


@pytest.mark.parametrize("name", ["", "yesterday", "2025-08-26", f"305/{SESSION}", f"{SESSION} "])
def test_what_is_no_sessions_name_starts_nothing_and_is_told_how_they_are_named(name: str) -> None:
    assert "YYYY-MM-DD-HH-MM-SS-ffffff" in refusal(process_session, {**GOOD, "session": name})
