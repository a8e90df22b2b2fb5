"""Cells of several days told apart and brought together by how much their masks overlap in the common frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse.csgraph import connected_components

SAME = 0.25  # mean overlap (Jaccard) of a cell's masks on two days, at least
SEEN = 0.1  # what overlaps less has nothing to do with each other
RIVAL = 0.7  # of its own overlap: who else overlaps as much makes it uncertain
_APART = 1e3  # the distance of two cells of one day, which no mean can hide


@dataclass(frozen=True)
class Found:
    """What became of one mask of one day.

    Attributes:
        cell: the number of the cell that it is, -1 where that is not known.
        overlap: mean overlap with the cell's masks on other days; of an uncertain one, with the nearest cell's.
        status: tracked, uncertain, or single: nothing overlaps it on another day.
        reason: why it is uncertain.
    """

    cell: int
    overlap: float
    status: str
    reason: str = ""


def moved(
    masks: sparse.csr_array, positions: NDArray[np.float32], shape: tuple[int, int], *, binary: bool = True
) -> sparse.csr_array:
    """Return a day's masks in the common frame: pixels more than half of which they cover.

    Args:
        masks: (cells, pixels of the day), 1 where a cell is; weights of mean 1 where `binary` is not asked for.
        positions: (2, height, width), the day's y and x for each pixel of the common frame.
        shape: height and width of the day's plane.
        binary: return 1 where a cell is; else the weights, also those at its rim.
    """
    covered = (masks @ sampling(positions, shape).T).tocsr()
    if binary:
        covered.data = (covered.data > 0.5).astype(np.float32)
        covered.eliminate_zeros()
    return covered


def seen(positions: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return (pixels of the common frame,): those that a day's plane shows, by the rule by which masks are moved."""
    return np.asarray(sampling(positions, shape).sum(axis=1) > 0.5 - 1e-6)  # every pixel of a moved mask, also rounded


def sampling(positions: NDArray[np.float32], shape: tuple[int, int]) -> sparse.csr_array:
    """Return the matrix (pixels of the common frame, pixels of the day) that reads a day's image, bilinearly."""
    y, x = (p.ravel().astype(np.float64) for p in positions)
    rows, columns, weights = [], [], []
    for dy in (0, 1):
        for dx in (0, 1):
            py, px = np.floor(y).astype(int) + dy, np.floor(x).astype(int) + dx
            inside = (py >= 0) & (px >= 0) & (py < shape[0]) & (px < shape[1])
            weight = (1 - np.abs(y - py)) * (1 - np.abs(x - px))
            rows.append(np.flatnonzero(inside))
            columns.append((py * shape[1] + px)[inside])
            weights.append(weight[inside])
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_array(entries, shape=(y.size, shape[0] * shape[1]))


def track(days: Sequence[sparse.csr_array], shown: Sequence[NDArray[np.bool_]] | None = None) -> list[list[Found]]:
    """Tell which masks of different days are one cell; on a day a cell has one mask at most.

    Masks are brought together by average linkage on their overlaps. A mask that another cell, or on its day another
    mask, rivals is left out as uncertain. Cells are numbered by their first day, then by their mask there.

    Args:
        days: for each day (cells, pixels of the common frame), 1 where a cell is.
        shown: for each day the pixels of the common frame that its plane shows; None: all of them.

    Returns:
        for each day what became of each of its masks.
    """
    day = np.repeat(np.arange(len(days)), [masks.shape[0] for masks in days])
    if not day.size:
        return [[] for _ in days]
    masks = sparse.vstack(days).tocsr()
    overlap = _overlaps(masks, day, np.ones((len(days), masks.shape[1])) if shown is None else np.stack(shown))
    groups = _without_doubt(_groups(overlap, day), overlap, day)
    cells = sorted((members for members in groups if len(members) > 1), key=min)
    found = [Found(-1, 0.0, "single")] * day.size
    for number, members in enumerate(cells):
        for n in members:
            found[n] = Found(number, _mean(overlap, n, members), "tracked")
    for n in range(day.size):
        if found[n].cell < 0:
            found[n] = _untracked(n, overlap, day, cells)
    return [[found[n] for n in np.flatnonzero(day == d)] for d in range(len(days))]


def _overlaps(masks: sparse.csr_array, day: NDArray[np.int64], shown: NDArray[Any]) -> sparse.csr_array:
    """Return the Jaccard overlap of all masks of different days, where both days show the tissue.

    Else a cell that one day's field cuts off would not be told from one that lies beside it.
    """
    sizes = masks @ shown.T.astype(np.float32)  # (masks, days)
    common = (masks @ masks.T).tocoo()
    rows, columns = common.coords
    values = common.data / (sizes[rows, day[columns]] + sizes[columns, day[rows]] - common.data)
    kept = (day[rows] != day[columns]) & (values >= SEEN)
    entries = (values[kept], (rows[kept], columns[kept]))
    return sparse.csr_array(entries, shape=common.shape)


def _groups(overlap: sparse.csr_array, day: NDArray[np.int64]) -> list[list[int]]:
    """Return masks that are one cell by their mean overlap."""
    groups: list[list[int]] = []
    count, label = connected_components(overlap, directed=False)
    order = np.argsort(label, kind="stable")
    for component in np.split(order, np.searchsorted(label[order], np.arange(1, count))):
        if len(component) == 1:
            groups.append([int(component[0])])
            continue
        apart = 1.0 - overlap[component][:, component].toarray()
        apart[day[component][:, None] == day[component][None, :]] = _APART
        tree = linkage(apart[np.triu_indices(len(component), 1)], "average")
        part = fcluster(tree, 1.0 - SAME, "distance")
        groups += [component[part == p].tolist() for p in np.unique(part)]
    return groups


def _without_doubt(groups: list[list[int]], overlap: sparse.csr_array, day: NDArray[np.int64]) -> list[list[int]]:
    """Return the groups without the masks that might as well be another cell, or another mask in their place.

    First those go that another mask of their day rivals: these say nothing about the other days. Then those that
    another group rivals.
    """
    kept = [[n for n in group if not _rivalled_on_its_day(n, group, overlap, day)] for group in groups]
    of = {n: group for group in kept for n in group}
    return [[n for n in group if not _rivalled_by_a_group(n, of, overlap, day)] for group in kept]


def _rivalled_on_its_day(n: int, group: list[int], overlap: sparse.csr_array, day: NDArray[np.int64]) -> bool:
    """Whether another mask of its day overlaps the rest of its group almost as much."""
    others = [m for m in group if m != n]
    own = _mean(overlap, n, group)
    same_day = {int(m) for other in others for m in _neighbours(overlap, other) if day[m] == day[n]} - {n}
    return any(_mean(overlap, m, [*others, m]) > RIVAL * own for m in same_day)


def _rivalled_by_a_group(n: int, of: dict[int, list[int]], overlap: sparse.csr_array, day: NDArray[np.int64]) -> bool:
    """Whether it overlaps another group almost as much as its own.

    A lone mask counts only where its own group has another mask on that day: else it may be the same cell, found twice.
    """
    group = of[n]
    if len(group) < 2:
        return False
    elsewhere = [of[int(m)] for m in _neighbours(overlap, n) if int(m) in of and of[int(m)] is not group]
    days = {day[m] for m in group}
    elsewhere = [other for other in elsewhere if len(other) > 1 or day[other[0]] in days]
    return any(_mean(overlap, n, [*other, n]) > RIVAL * _mean(overlap, n, group) for other in elsewhere)


def _untracked(n: int, overlap: sparse.csr_array, day: NDArray[np.int64], cells: list[list[int]]) -> Found:
    """Say why a mask is no cell of several days."""
    near = _neighbours(overlap, n)
    if not len(near):
        return Found(-1, 0.0, "single")
    of = {m: number for number, members in enumerate(cells) for m in members}
    candidates = sorted({of[int(m)] for m in near if int(m) in of})
    if not candidates:
        best = float(max(overlap[[n]].data))
        return Found(
            -1, best, "uncertain", f"overlaps {len(near)} on other days, the best by {best:.2f}, none for sure"
        )
    values = {c: _mean(overlap, n, [*cells[c], n]) for c in candidates}
    best_cell = max(values, key=lambda c: values[c])
    found = Found(-1, values[best_cell], "uncertain")
    if any(day[m] == day[n] for m in cells[best_cell]):
        return replace(found, reason=f"overlaps cell {best_cell}, which has a better mask on this day")
    words = ", ".join(f"cell {c} by {value:.2f}" for c, value in values.items())
    return replace(found, reason=f"overlaps {words}: not for sure")


def _neighbours(overlap: sparse.csr_array, n: int) -> NDArray[Any]:
    near: NDArray[Any] = overlap.indices[overlap.indptr[n] : overlap.indptr[n + 1]]
    return near


def _mean(overlap: sparse.csr_array, n: int, members: Sequence[int]) -> float:
    """Return the mean overlap of a mask with the others of its group."""
    start, stop = overlap.indptr[n], overlap.indptr[n + 1]
    known = dict(zip(overlap.indices[start:stop].tolist(), overlap.data[start:stop].tolist(), strict=True))
    others = [m for m in members if m != n]
    return sum(known.get(m, 0.0) for m in others) / len(others) if others else 0.0
