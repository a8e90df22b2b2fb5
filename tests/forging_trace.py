"""Trace every value of an NWB file back to the file it came from: `python -m tests.forging_trace NWB PROCESSED_DATA`.

It reads the sources itself, without the code that forges; multi-day's output lies beside the NWB file. It prints as
JSON how many values were compared, which objects have a value that differs (`wrong`), and which it knows no source of
(`untraced`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hdmf.common import DynamicTable
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.image import GrayscaleImage
from pynwb.ophys import PlaneSegmentation, RoiResponseSeries

UNITS = {  # column → unit of the NWB file, and what its values are multiplied by to be in it
    "traveled_distance_cm": ("meters", 0.01),
    "voltage_12_bit_adc": ("a.u.", 1.0),
    "dispensed_water_volume_uL": ("L", 1e-6),
    "break_torque_N_cm": ("N*m", 0.01),
    "torque_N_cm": ("N*m", 0.01),
    "motion_energy": ("a.u.", 1.0),
    "fluorescence": ("a.u.", 1.0),
    "neuropil": ("a.u.", 1.0),
    "deconvolved": ("a.u.", 1.0),
}
STATES = ("lick", "tone", "screen", "ttl", "system", "experiment", "lick_guidance", "reward_visibility")
UNITS |= {f"{name}_state": ("n/a", 1.0) for name in STATES}
ARRAYS = {"fluorescence": "F", "neuropil": "Fneu", "deconvolved": "spks"}


class Trace:
    """What was compared so far."""

    def __init__(self, file: NWBFile, processed: Path, multiday: Path) -> None:
        self.file, self.processed, self.multiday = file, processed, multiday
        self.start_us = round(file.session_start_time.timestamp() * 1e6)
        self.values = 0
        self.wrong: list[str] = []
        self.untraced: list[str] = []

    def same(self, name: str, found: Any, expected: Any) -> None:
        """Compare values, which must be the same to the last bit."""
        found, expected = np.asarray(found), np.asarray(expected)
        self.values += expected.size
        if found.shape != expected.shape or not (
            np.array_equal(found, expected, equal_nan=found.dtype.kind == "f" and expected.dtype.kind == "f")
        ):
            self.wrong.append(name)

    def table(self, name: str) -> pl.DataFrame:
        """Return a source table."""
        return pl.read_ipc(self.processed / f"{name}.feather")

    def us(self, seconds: Any) -> Any:
        """Return times of the file as µs UTC."""
        return np.rint(np.asarray(seconds) * 1e6).astype(np.int64) + self.start_us

    def times(self, series: TimeSeries) -> Any:
        """Return a series' times, µs UTC."""
        if series.rate is not None:
            return self.us(series.starting_time + np.arange(series.data.shape[0]) / series.rate)
        return self.us(series.timestamps[:])

    def every_object(self) -> None:
        """Trace every series, table and image of the file."""
        for each in self.file.objects.values():
            name = f"{type(each).__name__} {each.name}"
            if isinstance(each, RoiResponseSeries):
                self.activity(each, name)
            elif isinstance(each, TimeSeries):
                self.series(each, name)
            elif isinstance(each, PlaneSegmentation):
                self.masks(each, name)
            elif isinstance(each, DynamicTable):
                self.rows(each, name)
            elif isinstance(each, GrayscaleImage):
                self.same(name, each.data[:], self.registered(each.parent.name)["meanImg"])

    def folder(self, name: str) -> Path:
        """Return the folder of a plane that an object's name ends with."""
        return self.processed / "mesoscope_data" / name[name.index("plane") :]

    def registered(self, name: str) -> dict[str, Any]:
        """Return what suite2p saved of a plane's registration."""
        return dict(np.load(self.folder(name) / "reg_outputs.npy", allow_pickle=True).item())

    def onsets(self) -> Any:
        """Return the volumes' onsets: here every pulse is one, and none is missing."""
        signal = self.table("behavior_data/mesoscope_frame_data")
        return signal.filter(pl.col("ttl_state") == 1)["time_us"].to_numpy().astype(np.int64)

    def activity(self, series: RoiResponseSeries, name: str) -> None:
        """Trace activity: volumes by ROIs, in suite2p's order."""
        column = series.comments.split(" ")[0]
        self.same(name, series.data[:], np.load(self.folder(series.name) / f"{ARRAYS[column]}.npy").T)
        self.same(f"{name} times", self.times(series), self.onsets())
        self.same(f"{name} ROIs", series.rois.data[:], np.arange(series.data.shape[1]))
        self.unit(series, column, name)

    def unit(self, series: TimeSeries, column: str, name: str) -> None:
        """Compare unit and conversion."""
        if (series.unit, series.conversion) != UNITS[column]:
            self.wrong.append(f"{name} unit")

    def series(self, series: TimeSeries, name: str) -> None:
        """Trace a series to the columns that its comments name."""
        if series.name.startswith("motion_plane"):
            registered = self.registered(series.name)
            self.same(name, series.data[:], np.stack((registered["yoff"], registered["xoff"]), axis=1))
            self.same(f"{name} times", self.times(series), self.onsets())
            return
        if series.name.startswith("multiday_"):
            _, array, plane = series.name.split("_")
            self.same(
                name, series.data[:], np.load(self.multiday / self.file.session_id / plane / f"{ARRAYS[array]}.npy").T
            )
            self.same(f"{name} times", self.times(series), self.onsets())
            return
        source, _, columns = series.comments.partition(": ")
        names = columns.split(", ")
        if source == "no comments" or series.name == "running_speed":
            self.derived(series, name)
            return
        table = self.table(source)
        column = "frame_time_us" if "frame_time_us" in table.columns else "time_us"
        self.same(f"{name} times", self.times(series), table[column].to_numpy().astype(np.int64))
        if names == ["frame_time_us"]:
            self.same(name, series.data[:], np.arange(len(table)))
            return
        if hasattr(series, "confidence"):
            self.same(f"{name} confidence", series.confidence[:], table[names.pop()].to_numpy())
        values = table.select(names).to_numpy()
        self.same(name, series.data[:], values[:, 0] if series.data[:].ndim == 1 else values)
        if names[0] in UNITS:
            self.unit(series, names[0], name)

    def derived(self, series: TimeSeries, name: str) -> None:
        """Compute the running speed anew, value by value."""
        if series.name != "running_speed":
            self.untraced.append(name)
            return
        table = self.table("behavior_data/encoder_data")
        times = table["time_us"].to_numpy().astype(np.int64)
        distance = table["traveled_distance_cm"].to_numpy()

        def at(time: int) -> float:
            before = distance[times <= time]
            return float(before[-1] if len(before) else distance[0])

        clock = self.times(series)
        self.same(name, series.data[:], [(at(t + 100_000) - at(t - 100_000)) / 0.2 for t in clock.tolist()])
        if (series.unit, series.conversion) != ("m/s", 0.01):
            self.wrong.append(f"{name} unit")

    def masks(self, table: PlaneSegmentation, name: str) -> None:
        """Trace ROIs: pixels are x, y, weight, and the curated iscell.npy says what is a cell."""
        folder = self.folder(table.name)
        stat, iscell = np.load(folder / "stat.npy", allow_pickle=True), np.load(folder / "iscell.npy")
        self.same(f"{name} ids", table.id[:], np.arange(len(stat)))
        for number, roi in enumerate(stat):
            pixels = table["pixel_mask"][number]
            for field, key in (("x", "xpix"), ("y", "ypix"), ("weight", "lam")):
                self.same(f"{name} {field} of ROI {number}", pixels[field], roi[key])
        self.same(f"{name} accepted", table["accepted"].data[:], iscell[:, 0] > 0)
        self.same(f"{name} probability", table["cell_probability"].data[:], iscell[:, 1])
        if "multiday_cell" in table.colnames:
            cells = pl.read_ipc(self.multiday / "cells.feather").filter(pl.col("status") == "tracked")
            mine = cells.filter((pl.col("session") == self.file.session_id) & (pl.col("plane") == int(table.name[5:])))
            known = dict(mine.select("roi", "cell").iter_rows())
            self.same(
                f"{name} identities", table["multiday_cell"].data[:], [known.get(r, -1) for r in range(len(stat))]
            )
        self.untraced += [f"{name} {c}" for c in table.colnames if c not in _OF_MASKS]

    def rows(self, table: DynamicTable, name: str) -> None:
        """Trace a table's columns."""
        expected = dict(self.columns(table.name))
        for column in table.colnames:
            if column not in expected:
                self.untraced.append(f"{name} {column}")
                continue
            found = np.asarray(table[column].data[:])
            if column in ("start_time", "stop_time", "timestamp"):
                found = self.us(found)
            elif column == "duration":
                found = np.rint(found * 1e6).astype(np.int64)
            self.same(f"{name} {column}", found, expected[column])

    def columns(self, name: str) -> Iterator[tuple[str, Any]]:
        """Give a table's columns as its sources have them; events and trials are found anew, one by one."""
        if name in ("vr_cue", "vr_reward_zone"):
            yield from ((c.name, c.to_numpy()) for c in self.table(f"behavior_data/{name}_data"))
        elif name == "licks":
            yield from zip(("timestamp", "duration"), np.array(list(self.licks())).T, strict=True)
        elif name == "rewards":
            yield from zip(("timestamp", "volume_uL"), zip(*self.rewards(), strict=True), strict=True)
        elif name == "trials":
            yield from self.trials()

    def licks(self) -> Iterator[tuple[int, int]]:
        """Give onset and duration of each lick, µs."""
        began = None
        for time, _, state in self.table("behavior_data/lick_data").iter_rows():
            if state and began is None:
                began = time
            elif not state and began is not None:
                yield began, time - began
                began = None

    def rewards(self) -> Iterator[tuple[int, float]]:
        """Give the time of each reward, and its volume."""
        before = 0.0
        for time, volume, _ in self.table("behavior_data/valve_data").iter_rows():
            if volume > before:
                yield time, volume - before
            before = volume

    def trials(self) -> Iterator[tuple[str, Any]]:
        """Give the columns of the trials that the animal came to."""
        encoder = self.table("behavior_data/encoder_data").rows()
        data, zones = (self.table(f"behavior_data/{name}").rows() for name in ("trial_data", "vr_reward_zone_data"))
        furthest = max(distance for _, distance in encoder)
        begun = [start for _, start in data if start <= furthest]
        began = [next(time for time, distance in encoder if distance >= start) for start in begun]
        ended = [*began[1:], encoder[-1][0]]
        rewards, names = list(self.rewards()), ("four_cue", "three_cue")
        guidance = self.table("behavior_data/guidance_state_data").rows()
        yield "start_time", began
        yield "stop_time", ended
        yield "trial_type", [names[kind] for kind, _ in data[: len(begun)]]
        yield "start_cm", begun
        yield "reward_zone_start_cm", [zone[0] for zone in zones[: len(begun)]]
        yield "reward_zone_end_cm", [zone[1] for zone in zones[: len(begun)]]
        windows = list(zip(began, [*began[1:], 1 << 62], strict=True))
        yield "rewarded", [any(start <= time < end for time, _ in rewards) for start, end in windows]
        states = [[state for time, state in guidance if time <= start] or [guidance[0][1]] for start in began]
        yield "guided", ["guided" if state[-1] else "not guided" for state in states]
        lengths = (240.0, 180.0)
        yield "completed", [furthest >= start + lengths[kind] for kind, start in data[: len(begun)]]


_OF_MASKS = ("pixel_mask", "accepted", "cell_probability", "multiday_cell")


def main() -> None:
    """Carry out the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("nwb", type=Path)
    parser.add_argument("processed_data", type=Path)
    arguments = parser.parse_args()
    with NWBHDF5IO(str(arguments.nwb), "r") as io:
        trace = Trace(io.read(), arguments.processed_data, arguments.nwb.parent)
        trace.every_object()
    print(json.dumps({"values": trace.values, "wrong": trace.wrong, "untraced": trace.untraced}))


if __name__ == "__main__":
    main()
