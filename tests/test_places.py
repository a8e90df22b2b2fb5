"""Where the data of a session or an animal lies, how much it is, and on which volume."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import SESSION, Side, make_session


def found(side: Side, **arguments: Any) -> dict[str, dict[str, Any]]:
    return {place["name"]: place for place in side.get("where", **arguments)}


def test_every_folder_is_listed_with_its_size_state_and_volume(side: Side) -> None:
    working = side.root / "working" / "Project" / "305" / SESSION
    (working / "source_data" / "a").mkdir(parents=True)
    (working / "source_data" / "a" / "b.bin").write_bytes(b"x" * 1000)
    (working / "source_data" / "c.bin").write_bytes(b"x" * 23)
    (working / "processed_data").mkdir()
    places = found(side)
    assert {name: (p["volume"], p["state"]) for name, p in places.items()} == {
        "raw_data": ("storage", "exists"),
        "tracking_data": ("storage", "missing"),
        "archived_data": ("storage", "missing"),
        "source_data": ("working", "exists"),
        "processed_data": ("working", "empty"),
    }
    source = places["source_data"]
    assert (source["bytes"], source["files"], source["counted"]) == (1023, 2, True)
    assert source["path"] == str(working / "source_data")


def test_on_one_volume_the_copies_that_never_exist_are_not_listed(side: Side) -> None:
    side.arguments["site"]["working"] = side.arguments["site"]["storage"]
    assert {name: p["volume"] for name, p in found(side).items()} == dict.fromkeys(
        ("raw_data", "tracking_data", "processed_data"), "both"
    )


def test_links_are_neither_followed_nor_counted(side: Side) -> None:
    raw_data = side.root / "storage" / "Project" / "305" / SESSION / "raw_data"
    before = found(side)["raw_data"]
    (side.root / "elsewhere").mkdir()
    (side.root / "elsewhere" / "big").write_bytes(b"x" * 5000)
    (raw_data / "round").symlink_to(raw_data)
    (raw_data / "away").symlink_to(side.root / "elsewhere")
    assert found(side)["raw_data"] == before
    linked = raw_data.parent / "archived_data"
    linked.symlink_to(side.root / "elsewhere")
    place = found(side)["archived_data"]
    assert (place["state"], place["bytes"]) == ("exists", 0)
    assert place["note"] == f"a link to {side.root / 'elsewhere'}, which is not followed"


def test_what_an_interrupted_move_left_is_listed(side: Side) -> None:
    left = side.root / "working" / "Project" / "305" / SESSION / "source_data.partial"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    place = found(side)["source_data.partial"]
    assert (place["state"], place["volume"], place["files"]) == ("exists", "working", 1)
    assert "the next run removes it" in place["note"]


def test_after_the_time_limit_what_is_there_is_still_listed(side: Side) -> None:
    place = found(side, seconds=1e-9)["raw_data"]
    assert (place["state"], place["counted"]) == ("exists", False)


def test_an_animal_has_the_folders_of_all_its_sessions(side: Side) -> None:
    make_session(side.root / "storage", session="2025-08-27-18-30-15-123456")
    make_session(side.root / "storage", animal="306", session="2025-08-28-18-30-15-123456")
    sessions = [place["session"] for place in side.get("where", session="")]
    assert list(dict.fromkeys(sessions)) == [SESSION, "2025-08-27-18-30-15-123456"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"animal": "999", "session": ""},
        {"session": "2020-01-01-00-00-00-000000"},
        {"project": "Q"},
        {"animal": "../.."},
    ],
)
def test_what_does_not_exist_is_refused(side: Side, arguments: dict[str, str]) -> None:
    assert side.ask("where", **arguments)["error"]["exit_code"] == 2
