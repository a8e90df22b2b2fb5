"""Process one camera's movie, motion energy or pose: `python -P -m jobs.video --camera face …`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl
import xxhash

from jobs.behavior import CAMERAS as SOURCES
from jobs.behavior import extract, write
from jobs.program import Output, check_owner, run, session_parser, session_paths, write_report
from trackers.cameras import CAMERAS, movies_of
from trackers.errors import SessionDataError
from trackers.files import atomic_write
from trackers.layout import SessionPaths
from trackers.names import ProcessingPipelines
from trackers.publication import NEXT, of_session
from trackers.session import load_session

MOTION, POSE = "motion energy", "DeepLabCut"
VERSIONS = {MOTION: ("opencv-python-headless", "numpy", "polars"), POSE: ("deeplabcut", "torch", "polars")}


def process(paths: SessionPaths, movie: Path, arguments: argparse.Namespace) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return what was found in each frame of a movie, without times, and how.

    Raises:
        SessionDataError: the movie is broken or has no frames; nothing was written.
        BadInputError: there is no such DeepLabCut project.
    """
    if arguments.deeplabcut:
        from jobs.video_pose import pose

        project = paths.volumes.storage / "deeplabcut_projects" / arguments.deeplabcut
        return pose(movie, project, arguments.shuffle)
    from jobs.video_motion import motion

    return motion(movie, arguments.components)


def timed(frames: int, stamps: Sequence[int], camera: str) -> tuple[pl.Series, list[str]]:
    """Return the time of each frame, µs UTC, null where there is none, and what people must know of that.

    Frames and timestamps go together from the first on: a camera that is stopped may have taken a frame, or logged
    one, more. Frames that were lost before the end make the times after them too early; nothing in the files tells.
    """
    times = pl.Series("time_us", [*stamps[:frames], *[None] * (frames - len(stamps))], dtype=pl.Int64)
    if not stamps:
        return times, [f"{camera} camera: its log has no timestamps, so no frame has a time"]
    if frames == len(stamps):
        return times, []
    what = "frames without a time" if frames > len(stamps) else "timestamps without a frame"
    words = (
        f"{camera} camera: the movie has {frames} frames and the log {len(stamps)} timestamps. They were paired from "
        f"the first on, which leaves {abs(frames - len(stamps))} {what}; if frames were lost before the end, the times "
        "after them are too early"
    )
    return times, [words]


def _clock(paths: SessionPaths, camera: str) -> tuple[list[int], list[str]]:
    """Return when a camera's log says that it took frames, µs UTC."""
    source = next(number for number, name in SOURCES.items() if name == camera)
    tables, notes = extract(paths, load_session(paths), source)
    return [time for table in tables.values() for time in table["frame_time_us"].to_list()], notes


def _save(folder: Path, camera: str, table: pl.DataFrame, about: dict[str, Any]) -> list[Output]:
    """Write a camera's table and what is said about it; a table of the other kind is no longer true, and goes."""
    kind, other = ("pose", "motion") if about["ran"] == POSE else ("motion", "pose")
    made = write(table, folder / f"{camera}_camera_{kind}.feather")
    content = json.dumps(about, indent=1).encode()
    atomic_write(folder / f"{camera}_camera_video.json", content)
    (folder / f"{camera}_camera_{other}.feather").unlink(missing_ok=True)
    place = "processed_data/camera_data"  # also where they are beside it until they are all there
    return [
        Output(f"{place}/{camera}_camera_{kind}.feather", made.size, made.xxh3_128),
        Output(f"{place}/{camera}_camera_video.json", len(content), xxhash.xxh3_128_hexdigest(content)),
    ]


def main() -> None:
    """Carry out the command line."""
    parser = session_parser("Processes one camera's movie.")
    parser.add_argument("--camera", required=True, choices=CAMERAS)
    parser.add_argument("--components", type=int, default=10, help="leading components of the motion, at most")
    parser.add_argument("--deeplabcut", default="", help="a DeepLabCut project: pose instead of motion energy")
    parser.add_argument("--shuffle", type=int, default=1, help="of the DeepLabCut project")
    parser.add_argument("--into", default="", choices=("", NEXT), help="beside the result (default: in its place)")
    arguments = parser.parse_args()
    paths, camera = session_paths(arguments), arguments.camera
    load_session(paths)
    check_owner(paths, arguments.manager_id)
    publication = of_session(paths.processed_data, ProcessingPipelines.VIDEO)
    movies = movies_of(paths.source_data, camera)
    if not movies:
        raise SessionDataError(
            f"{paths.source_data}/camera_data has no movie of the {camera} camera any more. Nothing was written. Run "
            "preparation again."
        )
    movie = movies[0]
    stamps, notes = _clock(paths, camera)
    if ignored := [other.name for other in movies[1:]]:
        notes.append(f"{camera} camera: it has several movies; {movie.name} was taken, and not {', '.join(ignored)}")
    found, about = process(paths, movie, arguments)
    times, remarks = timed(found.height, stamps, camera)
    versions = {name: metadata.version(name) for name in VERSIONS[about["ran"]]}
    notes = [f"{camera} camera: {about['ran']} of {found.height} frames", *notes, *about.pop("notes", []), *remarks]
    frames = pl.Series("frame", range(found.height), dtype=pl.UInt32)
    about = {**about, "camera": camera, "movie": movie.name, "frames": found.height, "timestamps": len(stamps)}
    about |= {"notes": notes[1:], "versions": versions}
    check_owner(paths, arguments.manager_id)
    publication.finish()
    outputs = _save(publication.directory / arguments.into, camera, pl.DataFrame([frames, times, *found]), about)
    print("\n".join([*(f"{o.path}: {o.size} bytes" for o in outputs), *notes]))
    write_report(outputs, versions, notes)


if __name__ == "__main__":
    run(main)
