"""Write the example project that the demo and the tests process: `python -P -m jobs.generate STORAGE`.

Everything in it is invented, and in the lab's own formats; movies and camera videos are random bytes of a small size.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from jobs.checksum import directory_checksum
from jobs.generate_descriptions import descriptions
from jobs.generate_logs import Truth, write_logs
from jobs.program import Progress, Steps, run
from trackers.errors import BadInputError, FileSystemError, NotFoundError
from trackers.files import dump_yaml, locked
from trackers.names import SessionTypes, session_time, validate_name
from trackers.session import CHECKSUM_FILE, COMPLETE_MARKER

DESCRIPTION = "generated.json"  # in the project's folder: what was generated, for those who compare
SECONDS = 30.0
GENERATION_SECONDS = 300.0  # that a second one waits for the first
FIRST_SESSION = datetime(2025, 8, 26, 18, 30, 15, 123456, tzinfo=UTC)
PLAN = (  # animal, days after the first session, type, what is wrong with it
    ("305", 0, SessionTypes.MESOSCOPE_EXPERIMENT, "good"),
    ("305", 1, SessionTypes.RUN_TRAINING, "damaged"),
    ("306", 0, SessionTypes.RUN_TRAINING, "good"),
    ("306", 1, SessionTypes.LICK_TRAINING, "incomplete"),
)


@dataclass(frozen=True)
class DemoSession:
    """A generated session.

    Attributes:
        kind: good, damaged (a byte differs from what was checksummed), incomplete (no telomere.bin), or the name of the
            defect that was planted in it.
        truth: what its logs hold.
    """

    animal: str
    session: str
    type: str
    kind: str
    truth: Truth


@dataclass(frozen=True)
class DemoProject:
    """A generated project; `science` is what it was asked for where it is one with planted cells."""

    project: str
    seed: int
    sessions: tuple[DemoSession, ...]
    science: dict[str, Any] = field(default_factory=dict)


def generate_project(
    storage: Path, project: str = "demo", seed: int = 1, shown: Steps = lambda _done, _total: None
) -> DemoProject:
    """Write the example project below a storage root, unless it is there; the same seed gives the same recordings.

    Their bytes are the same too where Python and numpy have the same versions: the headers of zip files differ between
    versions of Python, and with them the sessions' checksums.

    Raises:
        BadInputError: there is no such root; there is a folder of that name which was not generated, and is left
            alone; or the seed is negative.
        FileSystemError: the root cannot be written to; what was begun has been removed.
    """

    def write(staging: Path) -> DemoProject:
        sessions = []
        for number, plan in enumerate(PLAN):
            sessions.append(_session(staging, project, np.random.default_rng([seed, number]), *plan))
            shown(len(sessions), len(PLAN))
        return DemoProject(project, seed, tuple(sessions))

    return write_once(storage, project, seed, write)


def write_once(storage: Path, project: str, seed: int, write: Callable[[Path], DemoProject]) -> DemoProject:
    """Have a project written below a storage root, whole or not at all, unless one that was generated is there.

    Args:
        storage: existing folder.
        project: its name.
        seed: 0 or more.
        write: writes everything into a folder that it makes, and says what.

    Raises:
        BadInputError: as `generate_project`.
        FileSystemError: the root cannot be written to; what was begun has been removed.
    """
    validate_name(project, "project")
    if seed < 0:
        raise BadInputError(f"{seed} is no seed: it must be 0 or more. Nothing was written.")
    if not storage.is_dir():
        raise NotFoundError(f"There is no directory {storage}. Nothing was written. Create it first.")
    if (found := existing_project(storage, project)) is not None:
        return found
    staging = storage / f".{project}.generating"
    with locked(staging, timeout=GENERATION_SECONDS):
        if (found := existing_project(storage, project)) is not None:
            return found  # by one that ran at the same time
        shutil.rmtree(staging, ignore_errors=True)  # left by one that was killed
        try:
            generated = write(staging)
            (staging / DESCRIPTION).write_text(json.dumps(asdict(generated), indent=1))
            staging.rename(storage / project)  # last: a project that is there is whole
            return generated
        except OSError as error:
            raise FileSystemError(
                f"The example project could not be written to {storage}: {error.strerror or error}. What was begun "
                "has been removed."
            ) from error
        finally:
            for child in multiprocessing.active_children():  # the logger's, which would go on writing
                child.kill()
                child.join()
            shutil.rmtree(staging, ignore_errors=True)


def finish_session(raw_data: Path) -> None:
    """Mark a recording as acquired in full, and leave its checksum."""
    (raw_data / CHECKSUM_FILE).write_text(directory_checksum(raw_data))
    (raw_data / COMPLETE_MARKER).touch()


def existing_project(storage: Path, project: str = "demo") -> DemoProject | None:
    """Return what was generated below a storage root; None where nothing was.

    Raises:
        BadInputError: there is a folder of that name which was not generated.
    """
    directory = storage / project
    if not directory.exists():
        return None
    try:
        data = json.loads((directory / DESCRIPTION).read_bytes())
        sessions = tuple(DemoSession(**{**item, "truth": Truth(**item["truth"])}) for item in data.pop("sessions"))
        return DemoProject(**data, sessions=sessions)
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        raise BadInputError(
            f"{directory} is there, and no example project. Nothing was written. Choose another folder."
        ) from None


def _session(
    directory: Path, project: str, rng: Any, animal: str, day: int, kind: SessionTypes, fate: str
) -> DemoSession:
    time = FIRST_SESSION + timedelta(days=day, minutes=int(animal))
    name = time.strftime("%Y-%m-%d-%H-%M-%S-%f")
    raw_data = directory / animal / name / "raw_data"
    experiment = kind is SessionTypes.MESOSCOPE_EXPERIMENT
    (raw_data / "behavior_data").mkdir(parents=True)
    for file, content in descriptions(project, animal, name, kind, complete=fate != "incomplete").items():
        (raw_data / file).write_bytes(dump_yaml(content))
    _movies(raw_data, name, rng, experiment=experiment)
    onset_us = int(session_time(name).timestamp() * 1_000_000)
    truth = write_logs(raw_data / "behavior_data", onset_us, SECONDS, rng, experiment=experiment)
    if fate != "incomplete":
        finish_session(raw_data)
    if fate == "damaged":
        video = raw_data / "camera_data" / f"{name}_face_camera.mp4"
        content = bytearray(video.read_bytes())
        content[len(content) // 2] ^= 0x10
        video.write_bytes(content)
    return DemoSession(animal, name, kind.value, fate, truth)


def _movies(raw_data: Path, name: str, rng: Any, *, experiment: bool) -> None:
    files = [f"camera_data/{name}_{camera}_camera.mp4" for camera in ("face", "left", "right")]
    if experiment:
        files += ["mesoscope_data/mesoscope_000001_000100.tiff", "mesoscope_data/MotionEstimator.me"]
    for file in files:
        path = raw_data / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.bytes(int(rng.integers(200_000, 400_000))))


def main() -> None:
    """Carry out the command line; print what was generated as JSON."""
    parser = argparse.ArgumentParser(description="Writes a small example project, or one with planted cells.")
    parser.add_argument("storage", type=Path, help="existing folder that is to hold the project")
    parser.add_argument("--project", default="demo")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--science", action="store_true", help="sessions with planted cells; the options below are for")
    parser.add_argument("--size", default="ci", help="ci, small or realistic")
    parser.add_argument("--physics", default="A", help="A or B: how cells, neuropil, noise and motion are")
    parser.add_argument("--days", type=int, default=2, help="good sessions of each animal")
    parser.add_argument("--animals", type=int, default=1)
    parser.add_argument("--rois", type=int, default=1, help="of the mesoscope, one below the other in its frames")
    parser.add_argument("--drift-ppm", type=float, default=0.0, help="of the mesoscope's clock")
    parser.add_argument("--defect", nargs="*", default=[], metavar="NAME", help="each gets one session more")
    arguments = parser.parse_args()
    if arguments.science:
        from jobs.generate_science import generate_science

        generated = generate_science(
            *(arguments.storage, arguments.project),
            seed=arguments.seed,
            size=arguments.size,
            physics=arguments.physics,
            days=arguments.days,
            animals=arguments.animals,
            rois=arguments.rois,
            drift_ppm=arguments.drift_ppm,
            defects=arguments.defect,
            shown=Progress(0, "sessions").show,
        )
    else:
        shown = Progress(0, "sessions").show
        generated = generate_project(arguments.storage, arguments.project, arguments.seed, shown)
    print(json.dumps(asdict(generated)))


if __name__ == "__main__":
    run(main)
