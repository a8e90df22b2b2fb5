"""The figures of a session's page, each an SVG that takes its colour of text from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl

mpl.use("svg")
from matplotlib import pyplot as plt

from jobs import forging_behavior as behavior
from jobs.forging_sources import Array, Plane, Sources
from trackers.names import SessionTypes

INK = "#010203"  # becomes the page's colour of text, whichever that is
ACCENT, SECOND, GOOD = "#2f7ed8", "#e0663b", "#2a9d6f"
WIDTH = 9.0  # inches
TRACES, SECONDS = 12, 120.0  # how many cells, and how long a stretch of them, can still be read
POINTS = 3000  # of a line; a page is wide 1,000 pixels
STYLE = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "svg.fonttype": "none",
    "svg.hashsalt": "sessionflow",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "savefig.transparent": True,
    "image.cmap": "gray",
}


def figures(sources: Sources, across: pl.DataFrame | None) -> Iterator[tuple[str, str, str]]:
    """Yield title, SVG and caption of each figure that a session of its type has; of one that is missing, words alone.

    Args:
        sources: of the session.
        across: multi-day's cells.feather of its animal; None without.
    """
    imaging = sources.data.session_type is SessionTypes.MESOSCOPE_EXPERIMENT
    for title, draw in _FIGURES.items():
        if title in _OF_IMAGING and not imaging:
            continue
        with mpl.rc_context(STYLE):
            made = draw(sources, across)
        if isinstance(made, str):
            yield title, "", made
        else:
            figure, caption = made
            yield title, _svg(figure, title), caption


def drawn(title: str, draw: Callable[[], Any]) -> str:
    """Return the SVG of a figure in the page's style."""
    with mpl.rc_context(STYLE):
        figure = draw()
    return _svg(figure, title)


def _svg(figure: Any, title: str) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    prefix = re.sub(r"\W+", "-", title)  # several figures share the page: an id of one must not mean another's
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 role="img" aria-label="{title}"', svg, count=1)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)


def _outlines(sources: Sources, _across: Any) -> Any:
    planes = [plane for plane in sources.planes if plane.mean_image is not None]
    if not planes:
        return "No mean image: suite2p's output is not there."
    columns = min(len(planes), 3)
    rows = -(-len(planes) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, rows * WIDTH / columns), squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for axis, plane in zip(axes.ravel(), planes, strict=False):
        outlines(axis, plane, f"plane {plane.number}")
    return figure, "Mean of the registered movie, with the outlines of the ROIs that are accepted as cells."


def outlines(axis: Any, plane: Plane, title: str) -> None:
    """Draw a plane's mean image with the outlines of its cells; their number goes after the title."""
    axis.set_axis_off()
    image = np.asarray(plane.mean_image)
    low, high = np.percentile(image, (1, 99.7))
    axis.imshow(image, vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    for number in np.flatnonzero(plane.accepted):
        mask = np.zeros(image.shape)
        stat = plane.stat[number]
        mask[np.clip(stat["ypix"], 0, image.shape[0] - 1), np.clip(stat["xpix"], 0, image.shape[1] - 1)] = 1
        axis.contour(mask, [0.5], colors=[_colour(number)], linewidths=0.9)
    axis.set_title(f"{title}: {int(plane.accepted.sum())} cells of {len(plane.stat)} ROIs")


def _colour(number: Any) -> Any:
    return mpl.colormaps["hsv"]((number * 0.381966) % 1.0)


def _traces(sources: Sources, _across: Any) -> Any:
    found = [
        (plane, roi, np.asarray(plane.fluorescence[roi]) - 0.7 * np.asarray(plane.neuropil[roi]))
        for plane in sources.planes
        for roi in np.flatnonzero(plane.accepted)
    ]
    if not found:
        return "No traces: there are no cells."
    lively = sorted(found, key=lambda item: -_liveliness(item[2]))[:TRACES]
    figure, axis = plt.subplots(figsize=(WIDTH, 0.8 + 0.38 * len(lively)))
    for row, (plane, roi, trace) in enumerate(lively):
        shown = trace[: round(SECONDS * plane.rate)]
        scale = float(np.percentile(shown, 99.8) - np.median(shown)) or 1.0
        seconds = np.arange(len(shown)) / plane.rate
        _line(axis, seconds, (shown - np.median(shown)) / scale * 0.9 - row, _colour(roi))
    axis.set_yticks([-row for row in range(len(lively))], [f"plane {p.number}, ROI {roi}" for p, roi, _ in lively])
    axis.set_xlabel("time in the movie (s)")
    axis.margins(x=0)
    return figure, (
        f"Fluorescence less 0.7 times neuropil of the {len(lively)} of {len(found)} cells whose transients stand out "
        f"most from their noise, the first {SECONDS:g} s at most, each scaled by itself."
    )


def _liveliness(trace: Array) -> float:
    noise = float(np.median(np.abs(np.diff(trace)))) or 1.0
    return float(np.percentile(trace, 99) - np.median(trace)) / noise


def _motion(sources: Sources, _across: Any) -> Any:
    planes = [plane for plane in sources.planes if plane.shifts is not None]
    if not planes:
        return "No motion offsets: suite2p's output is not there."
    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(WIDTH, 2.8))
    for index, (axis, name) in enumerate(zip(axes, ("y", "x"), strict=True)):
        for plane in planes:
            shifts = np.asarray(plane.shifts)[:, index]
            colour = mpl.colormaps["viridis"](0.15 + 0.7 * plane.number / max(len(planes), 2))
            _line(axis, np.arange(len(shifts)) / plane.rate, shifts, colour, f"plane {plane.number}")
        axis.set_ylabel(f"{name} (px)")
        axis.margins(x=0)
    axes[0].legend(frameon=False, ncols=6, loc="lower left", bbox_to_anchor=(0, 1))
    axes[1].set_xlabel("time in the movie (s)")
    return figure, "By how much registration moved each frame. Long shifts at the edge of what it may are a bad sign."


def _running(sources: Sources, _across: Any) -> Any:
    speed, licks, rewards = (
        behavior.speed(sources.tables),
        behavior.licks(sources.tables),
        behavior.rewards(sources.tables),
    )
    if speed is None and licks is None and rewards is None:
        return "No running, licks or rewards: behavior's tables are not there."
    figure, axis = plt.subplots(figsize=(WIDTH, 2.6))
    top = 1.0
    if speed is not None:
        start, values = speed
        seconds = (start - sources.start_us) / 1e6 + np.arange(len(values)) * behavior.SPEED_STEP_US / 1e6
        _line(axis, seconds, values, ACCENT)
        top = max(float(np.nanmax(values)), 1.0)
        axis.set_ylabel("speed (cm/s)")
    else:
        axis.set_yticks([])
    for found, colour, level, name in ((licks, SECOND, 1.1, "licks"), (rewards, GOOD, 1.25, "rewards")):
        if found is not None and len(found[0]):
            axis.vlines((found[0] - sources.start_us) / 1e6, top * level, top * (level + 0.1), colors=colour, lw=0.7)
            axis.text(1.005, top * level, f"{len(found[0])} {name}", color=colour, transform=axis.get_yaxis_transform())
    axis.set_xlabel("time of the session (s)")
    axis.margins(x=0)
    without = [n for n, f in (("running", speed), ("licks", licks), ("rewards", rewards)) if f is None]
    missing = f" Not there: {', '.join(without)}." if without else ""
    shown = "The" if speed is None else "Running speed, with the"
    return figure, f"{shown} beginning of each lick and each reward.{missing}"


def _cameras(sources: Sources, _across: Any) -> Any:
    found = []
    for camera in sources.cameras:
        if camera.pose is not None:
            columns = [c for c in camera.pose.columns if c.endswith(("_x", "_y"))]
            found.append((f"{camera.name}: pose (px)", camera.pose, columns[:6]))
        elif camera.motion is not None:
            found.append((f"{camera.name}: motion energy", camera.motion, ["motion_energy"]))
    if not found:
        return "No pose and no motion: video's output is not there."
    figure, axes = plt.subplots(len(found), 1, sharex=True, figsize=(WIDTH, 0.6 + 1.5 * len(found)), squeeze=False)
    for axis, (title, table, columns) in zip(axes.ravel(), found, strict=True):
        seconds = (table["time_us"].to_numpy() - sources.start_us) / 1e6
        for number, column in enumerate(columns):
            colour = ACCENT if len(columns) == 1 else mpl.colormaps["viridis"](0.15 + 0.7 * number / len(columns))
            _line(axis, seconds, table[column].cast(float).to_numpy(), colour, column.replace("_", " "))
        axis.set_title(title)
        axis.margins(x=0)
        if len(columns) > 1:
            axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes[-1, 0].set_xlabel("time of the session (s)")
    return figure, "What the cameras saw: pose where DeepLabCut ran, else motion energy."


def _matched(sources: Sources, across: pl.DataFrame | None) -> Any:
    if across is None:
        return "No cells across days: no multi-day result of this session was given."
    sure = across.filter((pl.col("status") == "tracked") & (pl.col("roi") >= 0))
    days = sorted(sure["session"].unique().to_list())
    counts = [sure.filter(pl.col("session") == day).height for day in days]
    everywhere = int((sure.group_by("plane", "cell").agg(pl.col("session").n_unique())["session"] == len(days)).sum())
    today = sure.filter(pl.col("session") == sources.paths.session)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.8), width_ratios=(1.2, 1))
    colours = [ACCENT if day == sources.paths.session else "#8a94a6" for day in days]
    left.barh(range(len(days)), counts, color=colours)
    left.set_yticks(range(len(days)), [day[:10] for day in days])
    left.invert_yaxis()
    left.set_xlabel("tracked cells")
    plane = next((p for p in sources.planes if p.mean_image is not None), None)
    right.set_axis_off()
    if plane is not None:
        image = np.asarray(plane.mean_image)
        right.imshow(image, vmin=np.percentile(image, 1), vmax=np.percentile(image, 99.7) + 1e-6)
        for roi, cell in today.filter(pl.col("plane") == plane.number).select("roi", "cell").iter_rows():
            y, x = plane.stat[roi]["med"]
            right.plot(x, y, "o", ms=6, mfc="none", mec=_colour(cell))
            right.annotate(str(cell), (x, y), (3, 3), textcoords="offset points", color="#ffd166", fontsize=7)
        right.set_title(f"plane {plane.number}, by number of the cell")
    return figure, (
        f"{everywhere} cells were found on all {len(days)} days; {today.height} of this session's cells are known from "
        "another day. Uncertain matches are not shown."
    )


def _line(axis: Any, x: Array, y: Array, colour: Any, label: str = "") -> None:
    """Draw a line in as many points as a page can show: of each stretch the lowest and the highest."""
    step = len(y) // (POINTS // 2)
    if step > 1:
        usable = len(y) // step * step
        rows = np.asarray(y[:usable], float).reshape(-1, step)
        filled = np.where(np.isfinite(rows), rows, 0)
        y = np.stack((filled.min(1), filled.max(1)), 1).ravel()
        x = np.repeat(np.asarray(x[:usable:step]), 2)
    axis.plot(x, y, color=colour, lw=0.8, label=label)


_FIGURES: dict[str, Callable[[Sources, Any], Any]] = {
    "Cells": _outlines,
    "Example traces": _traces,
    "Motion of the image": _motion,
    "Running, licks and rewards": _running,
    "Cameras": _cameras,
    "Cells across days": _matched,
}
_OF_IMAGING = ("Cells", "Example traces", "Motion of the image", "Cells across days")
