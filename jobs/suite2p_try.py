"""Look for a registered plane's cells with other settings, beside the result: `python -P -m jobs.suite2p_try …`."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from jobs.program import check_owner, run, session_parser, session_paths, write_report
from jobs.suite2p import VERSIONS, look_for_cells
from jobs.suite2p_settings import changed, own_caches
from trackers.errors import SessionDataError
from trackers.files import make_directory
from trackers.names import ProcessingPipelines, validate_name
from trackers.publication import TRIES, of_session
from trackers.session import load_session

_REGISTERED = ("db.npy", "settings.npy", "reg_outputs.npy", "data.bin")


def look_again(place: Path, name: str, number: int, changes: dict[str, Any]) -> str:
    """Find a plane's cells and extract their activity into `tries/NAME/planeN`; return how many there are.

    The settings are those that the plane was made with, but for `changes`. Its own folder is only read.

    Raises:
        SessionDataError: the plane has not been registered, or its movie is gone; nothing was written.
        BadInputError: suite2p has no such setting.
    """
    import numpy as np

    made, folder = place / f"plane{number}", place / TRIES / name / f"plane{number}"
    if (made / "data_raw.bin").exists() or (missing := [n for n in _REGISTERED if not (made / n).exists()]):
        what = "was not registered to its end" if (made / "data_raw.bin").exists() else f"has no {', '.join(missing)}"
        raise SessionDataError(f"{made} {what}. Nothing was tried. Run suite2p on the session again.")
    db, settings = (np.load(made / f"{each}.npy", allow_pickle=True).item() for each in ("db", "settings"))
    settings = changed(settings, changes)
    settings["run"]["do_registration"] = 1  # where it is done, it is not done again
    settings["io"] |= {"delete_bin": False, "move_bin": False}  # the movie is the result's
    db |= {"save_path": str(folder), "fast_disk": str(folder)}
    db |= {"reg_file": str(made / "data.bin"), "raw_file": str(folder / "data_raw.bin")}
    if folder.is_dir():
        shutil.rmtree(folder)  # an earlier try of this name
    make_directory(folder)
    np.save(folder / "db.npy", db)
    shutil.copyfile(made / "reg_outputs.npy", folder / "reg_outputs.npy")
    look_for_cells(folder, db, settings)
    now, before = (_cells(each) for each in (folder, made))
    return f"plane {number}: {now} with {name}, {before} in the result"


def _cells(folder: Path) -> str:
    import numpy as np

    accepted = np.load(folder / "iscell.npy")[:, 0] > 0
    return f"{accepted.sum()} cells of {len(accepted)} ROIs"


def main() -> None:
    """Carry out the command line."""
    parser = session_parser("Looks for a plane's cells with other settings, beside the result.")
    parser.add_argument("--name", required=True, help="of the try")
    parser.add_argument("--plane", type=int, required=True, help="which plane, from 0")
    parser.add_argument("--settings", default="{}", help="changes to the result's settings by dotted name, JSON")
    arguments = parser.parse_args()
    paths = session_paths(arguments)
    load_session(paths)
    check_owner(paths, arguments.manager_id)
    publication = of_session(paths.processed_data, ProcessingPipelines.SUITE2P)
    publication.finish()
    with own_caches():
        name = validate_name(arguments.name, "try")
        words = look_again(publication.directory, name, arguments.plane, json.loads(arguments.settings))
        print(words)
        write_report((), {each: metadata.version(each) for each in VERSIONS}, [words])


if __name__ == "__main__":
    run(main)
