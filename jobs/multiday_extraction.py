"""Extracts the activity of an animal's tracked cells in one session, with the same masks on every day."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.multiday_planes import entry, plane_folders, read_plane, saved
from jobs.program import Output, Progress, check_dataset_owner, dataset_parser, dataset_paths, run, write_report
from trackers.errors import BadInputError
from trackers.layout import SessionPaths
from trackers.publication import of_animal

Array = NDArray[np.float32]


def extract(result: Path, session: SessionPaths, progress: Progress | None = None) -> list[Output]:
    """Write F, Fneu and spks of every plane, (cells, frames) in the order of stat.npy; NaN where a cell has no mask."""
    outputs = []
    folders = plane_folders(session)
    for number, folder in enumerate(folders):
        target = result / session.session / folder.name
        stat = np.load(target / "stat.npy", allow_pickle=True)
        for name, traces in traces_of(folder, list(stat)).items():
            outputs.append(saved(target / f"{name}.npy", traces, result))
        if progress:
            progress.show(number + 1, len(folders))
    return outputs


def traces_of(folder: Path, stat: list[dict[str, Any]]) -> dict[str, Array]:
    """Return a plane's traces by suite2p's own extraction and deconvolution, under that session's settings.

    Cells of the day that are not tracked are kept out of the neuropil, as suite2p does it.
    """
    from jobs import torchvision_operators  # noqa: F401 - before suite2p

    # isort: split
    import torch
    from suite2p import default_settings, extraction
    from suite2p.io import BinaryFile

    db, own = (np.load(folder / f"{name}.npy", allow_pickle=True).item() for name in ("db", "settings"))
    settings = {**default_settings(), **own}
    frames, device = int(db["nframes"]), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    placed = [n for n, mask in enumerate(stat) if mask["npix"]]
    result = {name: np.full((len(stat), frames), np.nan, np.float32) for name in ("F", "Fneu", "spks")}
    if not placed:
        return result
    masks = _with_overlaps([stat[n] for n in placed] + _others(folder, [stat[n] for n in placed]), (db["Ly"], db["Lx"]))
    with BinaryFile(Ly=db["Ly"], Lx=db["Lx"], filename=str(folder / "data.bin"), n_frames=frames) as movie:
        values = extraction.extraction_wrapper(np.array(masks), movie, settings=settings["extraction"], device=device)
    fluorescence, neuropil = (value[: len(placed)] for value in values[:2])
    batch = settings["extraction"]["batch_size"]
    corrected = fluorescence - settings["extraction"]["neuropil_coefficient"] * neuropil
    corrected = extraction.preprocess(
        F=corrected, fs=settings["fs"], batch_size=batch, device=device, **settings["dcnv_preprocess"]
    )
    spikes = extraction.oasis(F=corrected, batch_size=batch, tau=settings["tau"], fs=settings["fs"])
    for name, values in zip(result, (fluorescence, neuropil, spikes), strict=True):
        result[name][placed] = values
    return result


def _others(folder: Path, tracked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the day's cells that are not tracked: less than half of them lies in a tracked cell."""
    day, taken = read_plane(folder), set()
    for mask in tracked:
        taken.update(np.ravel_multi_index((mask["ypix"], mask["xpix"]), day.shape).tolist())
    found = []
    for n in range(len(day.rois)):
        row = day.weights[[n]]
        if sum(int(pixel) in taken for pixel in row.indices) < 0.5 * len(row.indices):
            found.append(entry(row.indices, row.data, day.shape))
    return found


def _with_overlaps(masks: list[dict[str, Any]], shape: tuple[int, int]) -> list[dict[str, Any]]:
    """Return the masks with suite2p's `overlap`, pixels that several share; one that has no others keeps them."""
    count = np.zeros(shape, int)
    for mask in masks:
        count[mask["ypix"], mask["xpix"]] += 1
    found = []
    for mask in masks:
        overlap = count[mask["ypix"], mask["xpix"]] > 1
        found.append({**mask, "overlap": np.zeros_like(overlap) if overlap.all() else overlap})
    return found


def main() -> None:
    """Carry out the command line."""
    parser = dataset_parser("Extracts the activity of tracked cells in one session.", animal=True)
    dataset, sessions = dataset_paths(arguments := parser.parse_args())
    if len(sessions) != 1:
        raise BadInputError(f"One session is extracted at a time, and these are {len(sessions)}. Nothing was done.")
    check_dataset_owner(dataset, sessions, arguments.manager_id)
    outputs = extract(of_animal(dataset.directory).next, sessions[0], Progress(1, "planes"))
    check_dataset_owner(dataset, sessions, arguments.manager_id)
    write_report(outputs, {name: metadata.version(name) for name in ("suite2p", "torch", "numpy")})


if __name__ == "__main__":
    run(main)
