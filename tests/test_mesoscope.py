"""What `ops.json` says of a mesoscope recording, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trackers.errors import SessionDataError
from trackers.mesoscope import read_mesoscope

WHOLE: dict[str, Any] = {
    "fs": 9.6,
    "nplanes": 3,
    "nrois": 2,
    "lines": [[0, 1, 2], [5, 6, 7]],
    "dy": [0, 0],
    "dx": [0, 64],
}


def test_planes_are_rois_times_z_planes(tmp_path: Path) -> None:
    path = tmp_path / "ops.json"
    path.write_text(json.dumps(WHOLE))
    form = read_mesoscope(path)
    assert (form.planes, form.height) == (6, 8)


@pytest.mark.parametrize(
    "change", [{"nplanes": 0}, {"fs": "fast"}, {"nrois": 3}, {"lines": [[], []]}, {"dy": [0]}, {"fs": 0}]
)
def test_an_ops_json_that_contradicts_itself_is_refused_by_its_name(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "ops.json"
    path.write_text(json.dumps(WHOLE | change))
    with pytest.raises(SessionDataError, match=r"ops\.json cannot be used"):
        read_mesoscope(path)


@pytest.mark.parametrize("content", ["", "[]", "{", "{}"])
def test_a_broken_ops_json_is_refused_by_its_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ops.json"
    path.write_text(content)
    with pytest.raises(SessionDataError, match=r"ops\.json cannot be used"):
        read_mesoscope(path)


def test_a_missing_ops_json_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(SessionDataError, match=r"ops\.json is missing"):
        read_mesoscope(tmp_path / "ops.json")
