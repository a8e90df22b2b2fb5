"""Tries of suite2p's settings on a session's page: each beside the result, with what was other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from jobs.forging_sources import IMAGING, Plane, planes_in
from jobs.report_figures import WIDTH, drawn, outlines
from trackers.errors import SessionDataError
from trackers.publication import TRIES


def tries(results: Path, planes: tuple[Plane, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield title, SVG and caption of each try, oldest first; of one that was not finished, words and no SVG.

    Args:
        results: the session's processed_data.
        planes: the result.
    """
    folder = results / IMAGING
    found = (path for path in (folder / TRIES).glob("*") if path.is_dir())
    for path in sorted(found, key=lambda place: (place.stat().st_mtime, place.name)):
        title = f"Try: {path.name}"
        try:
            # a try writes this of a plane without cells as well: without it, it failed
            tried = {p.number: p for p in planes_in(path) if (path / f"plane{p.number}" / "iscell.npy").exists()}
        except SessionDataError:
            tried = {}
        pairs = [(plane, tried[plane.number]) for plane in planes if plane.number in tried]
        if len(pairs) < len(planes) or any(plane.mean_image is None for pair in pairs for plane in pair):
            yield title, "", "It was not finished, or is of other planes than the result: try it again."
        else:
            yield title, drawn(title, lambda p=pairs: _side_by_side(p)), _caption(pairs, folder, path)  # type: ignore[misc]


def _side_by_side(pairs: list[tuple[Plane, Plane]]) -> Any:
    figure, axes = plt.subplots(len(pairs), 2, figsize=(WIDTH, len(pairs) * WIDTH / 2), squeeze=False)
    for row, pair in zip(axes, pairs, strict=True):
        for axis, plane, which in zip(row, pair, ("result", "try"), strict=True):
            outlines(axis, plane, f"{which}, plane {plane.number}")
    return figure


def _caption(pairs: list[tuple[Plane, Plane]], result: Path, tried: Path) -> str:
    counts = [sum(int(plane.accepted.sum()) for plane in side) for side in zip(*pairs, strict=True)]
    other = dict.fromkeys(
        words for plane, _ in pairs for words in differences(*(p / f"plane{plane.number}" for p in (result, tried)))
    )
    return f"{counts[0]} cells in the result, {counts[1]} in the try. {'; '.join(other) or 'The same settings'}."


def differences(result: Path, tried: Path) -> list[str]:
    """Return in words which settings of a plane were others in a try: `tau 1.0 → 0.7`."""
    before, now = (_flat(np.load(p / "settings.npy", allow_pickle=True).item()) for p in (result, tried))
    names = sorted(name for name in before | now if str(before.get(name)) != str(now.get(name)))
    return [f"{name} {before.get(name)} → {now.get(name)}" for name in names]


def _flat(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return flat
