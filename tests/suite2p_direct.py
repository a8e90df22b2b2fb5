"""suite2p called by itself, in one process: what our three kinds of job are compared with.

`python -m tests.suite2p_direct TIFFS FOLDER`, in the environment `suite2p`, writes its result to FOLDER/direct.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = "direct"
TABLES = ("F", "Fneu", "spks", "iscell")


def call(tiffs: Path, folder: Path) -> Path:
    """Have suite2p process a folder of tiffs; return where its result is."""
    import jobs.torchvision_operators  # noqa: F401  # isort: skip - before torchvision is
    from suite2p import default_db, default_settings, run_s2p

    ops = json.loads((tiffs / "ops.json").read_text())
    settings = default_settings()
    settings["fs"], settings["torch_device"] = ops["fs"], "cpu"
    settings["registration"]["nonrigid"] = False
    db = {key: ops[key] for key in ("nplanes", "nrois", "lines", "dy", "dx")}
    db |= {"data_path": [str(tiffs)], "save_path0": str(folder), "save_folder": FOLDER, "input_format": "tif"}
    run_s2p(db={**default_db(), **db, "keep_movie_raw": True}, settings=settings)
    return folder / FOLDER


def planes_of(folder: Path, planes: int) -> list[dict[str, Any]]:
    """Return what suite2p wrote of each plane, bytes and arrays."""
    found = []
    for plane in range(planes):
        place = folder / f"plane{plane}"
        tables = {name: np.load(place / f"{name}.npy") for name in TABLES}
        found.append({**tables, "stat": np.load(place / "stat.npy", allow_pickle=True)})
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return what of a plane is not the same in both: names of tables, and ROIs with what is known of them."""
    found = [name for name in TABLES if not np.array_equal(one[name], other[name])]
    if len(one["stat"]) != len(other["stat"]):
        return [*found, "number of ROIs"]
    for n, (mine, theirs) in enumerate(zip(one["stat"], other["stat"], strict=True)):
        if mine.keys() != theirs.keys():
            found.append(f"ROI {n}")
            continue
        for key in mine:
            if not np.array_equal(mine[key], theirs[key], equal_nan=np.asarray(mine[key]).dtype.kind == "f"):
                found.append(f"ROI {n} {key}")
    return found


if __name__ == "__main__":
    call(Path(sys.argv[1]), Path(sys.argv[2]))
