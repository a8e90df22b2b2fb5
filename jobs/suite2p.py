"""Process a mesoscope recording with suite2p: `python -P -m jobs.suite2p --stage binarize …`."""

from __future__ import annotations

import json
import logging
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from jobs.program import Output, Progress, check_owner, run, session_parser, session_paths, write_report
from jobs.suite2p_settings import own_caches, settings_of
from trackers.errors import SessionDataError
from trackers.files import make_directory
from trackers.layout import SessionPaths
from trackers.mesoscope import Mesoscope, read_mesoscope
from trackers.names import ProcessingPipelines
from trackers.publication import NEXT, of_session
from trackers.results import file_digest
from trackers.session import load_session

VERSIONS = ("suite2p", "torch", "numpy", "tifffile")
DETECTED = ("detect_outputs", "stat", "F", "Fneu", "spks", "iscell", "redcell")


def binarize(paths: SessionPaths, output: Path, settings: dict[str, Any]) -> list[str]:
    """Split the tiffs into one binary a plane, each with its db.npy and settings.npy; returns what people must know.

    The unregistered frames are kept beside the binary until their plane has succeeded: suite2p registers in place, and
    a plane that was interrupted could not be run again on half-registered frames.

    Raises:
        SessionDataError: ops.json or a tiff is missing, broken, or does not fit the others.
    """
    import numpy as np
    from suite2p import default_db, io

    source = paths.source_data / "mesoscope_data"
    form = read_mesoscope(source / "ops.json")
    tiffs, frames = _tiffs(source, form)
    make_directory(output)
    db = (
        default_db()
        | form.db()
        | {
            "data_path": [str(source)],
            "file_list": [tiff.name for tiff in tiffs],
            "save_path0": str(output.parent),
            "save_folder": output.name,
            "input_format": "tif",
            "keep_movie_raw": True,
        }
    )
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".suite2p_") as fast_disk:
        # init_dbs makes folders of its own below fast_disk; the binaries shall lie beside the results
        db["file_list"], db["first_files"] = io.get_file_list(db)
        dbs = io.init_dbs(db | {"fast_disk": fast_disk})
    for each in dbs:
        each["fast_disk"] = each["save_path"]
        each["reg_file"] = f"{each['save_path']}/data.bin"
        each["raw_file"] = f"{each['save_path']}/data_raw.bin"
        Path(each["reg_file"]).unlink(missing_ok=True)
    files = [Path(each["raw_file"]).open("wb") for each in dbs]  # noqa: SIM115 - tiff_to_binary closes them
    dbs = io.tiff_to_binary(dbs, settings, files, None)
    np.save(output / "db.npy", db)
    np.save(output / "settings.npy", settings)  # type: ignore[arg-type]
    rest = frames % form.nplanes
    return [f"the last volume is incomplete: {rest} of {form.nplanes} planes have one frame more"] if rest else []


def plane(output: Path, number: int, settings: dict[str, Any]) -> list[str]:
    """Register one plane, find its cells and extract their activity; returns what people must know.

    Raises:
        SessionDataError: the plane was not binarized.
    """
    import numpy as np

    folder = output / f"plane{number}"
    if not (folder / "db.npy").exists():
        raise SessionDataError(f"{folder}/db.npy is missing. Nothing was done. Run suite2p anew: --reprocess.")
    db = np.load(folder / "db.npy", allow_pickle=True).item()
    # wherever it was binarized: another run's binaries may be there by now
    here = {"save_path": str(folder), "fast_disk": str(folder), "save_path0": str(output.parent)}
    here |= {"reg_file": f"{folder}/data.bin", "raw_file": f"{folder}/data_raw.bin"}
    if here.items() - {name: str(db.get(name)) for name in here}.items():
        db |= here
        np.save(folder / "db.npy", db)
    registered = not (folder / "data_raw.bin").exists()
    notes = (
        [f"plane {number}: it was registered before, and only its cells were looked for again"] if registered else []
    )
    # what an earlier run left must not be taken for this one's
    earlier = [*DETECTED, *([] if registered else ["reg_outputs"])]
    for name in earlier:
        (folder / f"{name}.npy").unlink(missing_ok=True)
    look_for_cells(folder, db, settings)
    (folder / "data_raw.bin").unlink(missing_ok=True)
    stat = folder / "stat.npy"
    cells = len(np.load(stat, allow_pickle=True)) if stat.exists() else 0
    return notes if cells else [*notes, f"plane {number}: no cells were found"]


def look_for_cells(folder: Path, db: dict[str, Any], settings: dict[str, Any]) -> None:
    """Have suite2p process the plane in a folder; where it was registered before, from its cells on."""
    import numpy as np
    from suite2p.run_s2p import run_plane

    np.save(folder / "settings.npy", settings)  # type: ignore[arg-type]
    try:
        run_plane(db=db, settings=settings, db_path=str(folder / "db.npy"))
    except ValueError as error:
        if "no ROIs were found" not in str(error):
            raise
        _without_cells(folder, db)


def _without_cells(folder: Path, db: dict[str, Any]) -> None:
    """Write what suite2p leaves out where it finds nothing: tables of no rows, so that planes can be combined."""
    import numpy as np

    registered = np.load(folder / "reg_outputs.npy", allow_pickle=True).item()
    (top, bottom), (left, right) = registered["yrange"], registered["xrange"]
    empty = np.zeros((bottom - top, right - left), np.float32)
    np.save(folder / "detect_outputs.npy", {"Vcorr": empty, "max_proj": empty})  # type: ignore[arg-type]
    np.save(folder / "stat.npy", np.zeros(0, object))
    np.save(folder / "iscell.npy", np.zeros((0, 2)))
    for name in ("F", "Fneu", "spks"):
        np.save(folder / f"{name}.npy", np.zeros((0, db["nframes"]), np.float32))


def combine(output: Path, planes: int) -> list[str]:
    """Put all planes side by side into `combined`; returns what people must know.

    Raises:
        SessionDataError: a plane has not been processed.
    """
    if missing := [n for n in range(planes) if not (output / f"plane{n}" / "stat.npy").exists()]:
        raise SessionDataError(
            f"{output}: plane {', '.join(map(str, missing))} of {planes} has no stat.npy: it has not been processed. "
            "Nothing was combined. Run suite2p on it."
        )
    from suite2p import io

    io.combined(str(output), save=True)
    return []


class _Broken(logging.Handler):
    """Collects what tifffile only logs: that a file ends too early."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.words.append(record.getMessage())


def _tiffs(source: Path, form: Mesoscope) -> tuple[list[Path], int]:
    """Return the tiffs in their natural order, each looked through, and how many frames they hold."""
    from natsort import natsorted

    tiffs = natsorted(p for p in source.iterdir() if p.suffix.lower() in (".tif", ".tiff"))
    if not tiffs:
        raise SessionDataError(f"{source} has no tiff. Nothing was written. Copy it anew: run preparation again.")
    progress, frames, shapes = Progress(len(tiffs), "tiffs looked through"), 0, {}
    for done, tiff in enumerate(tiffs, 1):
        count, shapes[tiff.name] = _frames(tiff)
        frames += count
        if shapes[tiff.name] != shapes[tiffs[0].name]:
            raise SessionDataError(
                f"{tiff}: frames are {shapes[tiff.name]}, those of {tiffs[0].name} "
                f"{shapes[tiffs[0].name]}. Nothing was written."
            )
        progress.show(done)
    if (needed := form.height) > shapes[tiffs[0].name][0]:
        raise SessionDataError(
            f"{tiffs[0]} has {shapes[tiffs[0].name][0]} lines, ops.json speaks of {needed}. Nothing was written."
        )
    return tiffs, frames


def _frames(tiff: Path) -> tuple[int, tuple[int, ...]]:
    """Return how many frames a tiff has and their shape, once it is sure that it is whole."""
    from tifffile import TiffFile

    broken, logger = _Broken(), logging.getLogger("tifffile")
    logger.addHandler(broken)
    try:
        with TiffFile(tiff) as file:
            count, last = len(file.pages), file.pages[-1]
            end = max(o + n for o, n in zip(last.dataoffsets, last.databytecounts, strict=True))
            shape = tuple(file.pages[0].shape)
    except Exception as error:  # tifffile raises anything on a broken file
        raise SessionDataError(f"{tiff} is broken: {error}. Nothing was written. Copy it anew.") from None
    finally:
        logger.removeHandler(broken)
    if broken.words or end > tiff.stat().st_size:
        words = broken.words[0] if broken.words else "it ends before its last frame"
        raise SessionDataError(f"{tiff} is broken: {words}. Nothing was written. Copy it anew.")
    return count, shape


def _outputs(folder: Path) -> list[Output]:
    """Describe the files of a folder for the result record, where they will be; binaries are no results."""
    place = f"processed_data/mesoscope_data/{folder.name}"
    return [
        Output(f"{place}/{path.name}", path.stat().st_size, file_digest(path)) for path in sorted(folder.glob("*.npy"))
    ]


def _speak_of(place: Path, made_in: Path) -> None:
    """Have suite2p's notes of where its files are name the place where they will be."""
    import numpy as np

    if made_in == place:
        return
    for path in (p for name in ("db.npy", "ops.npy") for p in made_in.rglob(name)):
        found = np.load(path, allow_pickle=True).item()
        told = {k: v.replace(str(made_in), str(place), 1) if isinstance(v, str) else v for k, v in found.items()}
        told |= {"save_path0": str(place.parent), "save_folder": place.name}
        np.save(path, told)  # type: ignore[arg-type]


def main() -> None:
    """Carry out the command line."""
    parser = session_parser("Runs one stage of suite2p.")
    parser.add_argument("--stage", required=True, choices=("binarize", "plane", "combine"))
    parser.add_argument("--plane", type=int, default=0, help="which plane, from 0")
    parser.add_argument("--settings", default="{}", help="changes to suite2p's settings by dotted name, JSON")
    parser.add_argument("--into", default="", choices=("", NEXT), help="beside the result (default: in its place)")
    arguments = parser.parse_args()
    paths = session_paths(arguments)
    load_session(paths)
    check_owner(paths, arguments.manager_id)
    publication = of_session(paths.processed_data, ProcessingPipelines.SUITE2P)
    output = publication.directory / arguments.into
    with own_caches():
        form = read_mesoscope(paths.source_data / "mesoscope_data" / "ops.json")
        settings = settings_of(json.loads(arguments.settings), form)
        outputs: list[Output] = []
        publication.finish()
        if arguments.stage == "binarize":
            if arguments.into:
                publication.fresh()
            notes = binarize(paths, output, settings)
        elif arguments.stage == "plane":
            notes = plane(output, arguments.plane, settings)
        else:
            notes = combine(output, form.planes)
            _speak_of(publication.directory, output)
            # of all planes, also where this run processed one of them again
            names = [*(f"plane{n}" for n in range(form.planes)), "combined"]
            outputs = [each for name in names for each in _outputs(output / name)]
        check_owner(paths, arguments.manager_id)
        print("\n".join(notes))
        write_report(outputs, {name: metadata.version(name) for name in VERSIONS}, notes)


if __name__ == "__main__":
    run(main)
