"""Our table of suite2p's settings, against the library's own; skipped where its environment is missing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from jobs.suite2p_settings import changed
from trackers.errors import BadInputError
from trackers.suite2p_settings import SUITE2P

LIST = """
import json, torch
if torch.version.cuda is None:  # a torchvision built for CUDA looks for these
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from suite2p.parameters import SETTINGS
def walk(table, prefix=""):
    for name, value in table.items():
        if "default" in value and "type" in value:
            yield prefix + name, [value["default"], value["type"].__name__, value["min"], value["max"]]
        else:
            yield from walk(value, prefix + name + ".")
print(json.dumps(dict(walk(SETTINGS))))
"""


@pytest.mark.slow
def test_the_table_is_the_librarys_own(tmp_path: Path) -> None:
    python = Path(os.environ.get("SESSIONFLOW_TEST_ENVIRONMENTS", "/nonexistent")) / "suite2p" / "bin" / "python"
    if not python.exists():
        pytest.skip("SESSIONFLOW_TEST_ENVIRONMENTS names no folder with suite2p/bin/python")
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([python, "-c", LIST], env=environment, capture_output=True, text=True, check=True)
    own = json.loads(done.stdout.splitlines()[-1])
    assert own.keys() == SUITE2P.keys()
    for name, (default, kind, minimum, maximum) in own.items():
        known = SUITE2P[name]
        assert known.default == default, name
        assert known.types[0].__name__ == kind.replace("tuple", "list"), name
        if kind in ("int", "float"):
            for limit, ours in ((minimum, known.minimum), (maximum, known.maximum)):
                assert ours == (None if limit in (None, float("inf"), float("-inf")) else limit), name


def test_a_classifier_that_is_not_there_is_refused_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.npy"
    told = {"classification.classifier_path": str(path)}
    with pytest.raises(BadInputError, match=rf"{path}, and there is no such file"):
        changed({"classification": {"classifier_path": None}}, told)
    path.touch()
    taken = changed({"classification": {"classifier_path": None}}, told)
    assert taken["classification"]["classifier_path"] == str(path)
