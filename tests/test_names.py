"""Names are not code: what may become a path or meet a shell."""

import itertools
from datetime import UTC, datetime

import pytest

from trackers.errors import InvalidNameError
from trackers.manager import generate_manager_id, manager_id_of_flow_run
from trackers.names import ProcessingPipelines, TrackerFileNames, session_time, validate_name


@pytest.mark.parametrize("name", ["305", "Mouse 7", "Žluťoučký", "प्रयोग", "マウス", "a_b-c.d+e", "x" * 255])
def test_letters_of_any_script_digits_and_some_punctuation_are_names(name: str) -> None:
    assert validate_name(name, "animal") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "a..b",
        ".",
        ".hidden",
        "-rf",
        "a/b",
        "a\\b",
        "../a",
        "a\nb",
        "a\x00",
        "$(id)",
        "`id`",
        "a'b",
        'a"b',
        "a;b",
        " a",
        "a ",
        "x" * 256,
        "é" * 128,
        "a\u202eb",
        "a\u00a0b",
        "a*",
        "a?",
        "~",
        "a:b",
        "²",
    ],
)
def test_anything_else_is_refused(name: str) -> None:
    with pytest.raises(InvalidNameError, match="Nothing was touched"):
        validate_name(name, "animal")


@pytest.mark.parametrize(
    "name",
    [
        "2025-08-26-18-30-15",
        "2025-13-26-18-30-15-123456",
        "2025-02-30-18-30-15-123456",
        "2025-08-26-18-30-15-123456\n",
        "٢٠٢٥-08-26-18-30-15-123456",
        "../2025-08-26-18-30-15-123456",
    ],
)
def test_a_session_is_named_by_an_existing_time(name: str) -> None:
    with pytest.raises(InvalidNameError):
        session_time(name)


@pytest.mark.parametrize("year", [1, 4, 100, 400, 1900, 2000, 2024, 2025, 9999])
def test_every_day_that_there_is_can_name_a_session_and_no_other(year: int) -> None:
    for month, day, hour in itertools.product(range(14), range(33), (0, 23, 24)):
        name = f"{year:04}-{month:02}-{day:02}-{hour:02}-59-59-999999"
        try:
            expected = datetime(year, month, day, hour, 59, 59, 999999, UTC)
        except ValueError:
            with pytest.raises(InvalidNameError):
                session_time(name)
        else:
            assert session_time(name) == expected


def test_every_pipeline_but_none_else_has_a_tracker_file() -> None:
    assert [p.name for p in ProcessingPipelines] == [t.name for t in TrackerFileNames]


def test_manager_ids_are_unsigned_64_bit_and_new_each_time() -> None:
    ids = {generate_manager_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(0 <= i < 2**64 for i in ids)


def test_a_retried_flow_run_is_the_same_manager() -> None:
    assert manager_id_of_flow_run("a-run") == manager_id_of_flow_run("a-run") != manager_id_of_flow_run("another")
