"""Process a mesoscope recording with suite2p: `python -P -m jobs.suite2p --stage binarize …`."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import xxhash

from jobs.program import Output, Progress, check_owner, run, session_parser, session_paths, write_report
from trackers.errors import BadInputError, SessionDataError
from trackers.files import make_directory
from trackers.layout import SessionPaths
from trackers.mesoscope import Mesoscope, read_mesoscope
from trackers.session import load_session

VERSIONS = ("suite2p", "torch", "numpy", "tifffile")
BLOCK = 1 << 22
_declared: list[Any] = []  # see _let_torchvision_import
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
    from suite2p.run_s2p import run_plane

    folder = output / f"plane{number}"
    if not (folder / "db.npy").exists():
        raise SessionDataError(f"{folder}/db.npy is missing. Nothing was done. Run suite2p anew: --reprocess.")
    db = np.load(folder / "db.npy", allow_pickle=True).item()
    # what an earlier run left must not be taken for this one's
    earlier = [*DETECTED, *(["reg_outputs"] if (folder / "data_raw.bin").exists() else [])]
    for name in earlier:
        (folder / f"{name}.npy").unlink(missing_ok=True)
    np.save(folder / "settings.npy", settings)  # type: ignore[arg-type]
    try:
        run_plane(db=db, settings=settings, db_path=str(folder / "db.npy"))
    except ValueError as error:
        if "no ROIs were found" not in str(error):
            raise
        _without_cells(folder, db)
    (folder / "data_raw.bin").unlink(missing_ok=True)
    stat = folder / "stat.npy"
    cells = len(np.load(stat, allow_pickle=True)) if stat.exists() else 0
    return [] if cells else [f"plane {number}: no cells were found"]


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


def combine(output: Path) -> list[str]:
    """Put all planes side by side into `combined`; returns what people must know."""
    from suite2p import io

    if not any(output.glob("plane*/stat.npy")):
        return ["no plane has cells: nothing was combined"]
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


def _let_torchvision_import() -> None:
    """Declare two operators that PyPI's torchvision, built for CUDA, needs at its import beside a torch for the CPU."""
    import torch

    if torch.version.cuda is None and not _declared:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)  # it is undone when the library is no more


def settings_of(changes: str, form: Mesoscope) -> dict[str, Any]:
    """Return suite2p's settings with `changes`, a JSON object that may be nested as suite2p's own are.

    Raises:
        BadInputError: suite2p has no such setting.
    """
    import torch

    _let_torchvision_import()
    from suite2p import default_settings

    settings: dict[str, Any] = default_settings()
    settings["fs"] = form.fs
    settings["torch_device"] = "cuda" if torch.cuda.is_available() else "cpu"
    _change(settings, json.loads(changes))
    return settings


def _change(settings: dict[str, Any], changes: dict[str, Any], where: str = "") -> None:
    for key, value in changes.items():
        if key not in settings:
            raise BadInputError(f"suite2p has no setting {where}{key}. Nothing was done.")
        if isinstance(settings[key], dict):
            if not isinstance(value, dict):
                raise BadInputError(f"suite2p's {where}{key} is a group of settings. Nothing was done.")
            _change(settings[key], value, f"{where}{key}.")
        else:
            settings[key] = value


def _outputs(folder: Path, session: Path) -> list[Output]:
    """Describe the files of a folder for the result record; binaries are no results."""
    return [
        Output(path.relative_to(session).as_posix(), path.stat().st_size, _hash(path))
        for path in sorted(folder.glob("*.npy"))
    ]


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def main() -> None:
    """Carry out the command line."""
    parser = session_parser("Runs one stage of suite2p.")
    parser.add_argument("--stage", required=True, choices=("binarize", "plane", "combine"))
    parser.add_argument("--plane", type=int, default=0, help="which plane, from 0")
    parser.add_argument("--settings", default="{}", help="changes to suite2p's settings, a JSON object")
    parser.add_argument("--output", type=Path, help="folder of the results; none: processed_data/mesoscope_data")
    arguments = parser.parse_args()
    paths = session_paths(arguments)
    load_session(paths)
    check_owner(paths, arguments.manager_id)
    output = arguments.output or paths.processed_data / "mesoscope_data"
    caches = tempfile.mkdtemp(prefix="suite2p_")  # the home folder may be read-only
    os.environ.update(HOME=caches, NUMBA_CACHE_DIR=caches, MPLCONFIGDIR=caches)
    try:
        settings = settings_of(arguments.settings, read_mesoscope(paths.source_data / "mesoscope_data" / "ops.json"))
        if arguments.stage == "binarize":
            notes, folders = binarize(paths, output, settings), []
        elif arguments.stage == "plane":
            notes, folders = plane(output, arguments.plane, settings), [output / f"plane{arguments.plane}"]
        else:
            notes, folders = combine(output), [output / "combined"]
        check_owner(paths, arguments.manager_id)
        outputs = [each for folder in folders for each in _outputs(folder, paths.processed_data.parent)]
        print("\n".join(notes))
        write_report(outputs, {name: metadata.version(name) for name in VERSIONS}, notes)
    finally:
        shutil.rmtree(caches, ignore_errors=True)


if __name__ == "__main__":
    run(main)
