"""The cameras' movies of a recording, as far as can be seen without decoding them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trackers.environments import hindering
from trackers.layout import SessionPaths
from trackers.site import Site

CAMERAS = ("face", "left", "right")


def movies_of(recording: Path, camera: str) -> list[Path]:
    """Return a camera's movies below source_data or raw_data: one, if all is well.

    Where letters precede its name, as in `upleft_camera.mp4`, the movie is another camera's.
    """
    movies = (recording / "camera_data").glob(f"*{camera}_camera.mp4")
    return sorted(m for m in movies if not m.name.removesuffix(f"{camera}_camera.mp4")[-1:].isalpha())


def camera_movies(recording: Path) -> dict[str, Path]:
    """Return the movie of each camera that has one below source_data or raw_data, by the camera's name."""
    found = {camera: movies_of(recording, camera) for camera in CAMERAS}
    return {camera: movies[0] for camera, movies in found.items() if movies}


def video_facts(site: Site, paths: SessionPaths) -> dict[str, Any]:
    """Return which cameras a session has, and in words why their movies cannot be processed; empty where they can.

    A single movie that is broken is left to its job, so that the others are processed.
    """
    lack = hindering(site, "video")
    try:
        movies = camera_movies(paths.source_data) or camera_movies(paths.raw_data)
        broken = [path for path in movies.values() if not _is_mp4(path)]
    except OSError as error:
        return {"cameras": [], "video_problem": f"{error.filename} cannot be read: {error.strerror}"}
    problem = f"{lack.problem}. {lack.remedy}" if lack else ""
    if not movies:
        problem = "it has no camera's movie"
    elif len(broken) == len(movies):
        problem = f"none of the cameras' files is an MP4 movie, e.g. {broken[0]}"
    return {"cameras": list(movies), "video_problem": problem}


def _is_mp4(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8)[4:] == b"ftyp"  # ISO/IEC 14496-12, 4.3
