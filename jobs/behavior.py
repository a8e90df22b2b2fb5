"""Extract the tables of one hardware log: `python -P -m jobs.behavior --source 101 …`."""

from __future__ import annotations

import io
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl
import xxhash

from jobs.corridor import Corridor, runtime_tables
from jobs.logs import RESTORE, Codes, Messages, codes_of, module_events, read_log
from jobs.modules import MODULES
from jobs.program import Output, Progress, check_owner, run, session_parser, session_paths, write_report
from trackers import commands
from trackers.errors import SessionDataError
from trackers.files import atomic_write, load_yaml, make_directory
from trackers.layout import SessionPaths
from trackers.names import ProcessingPipelines, SessionTypes
from trackers.session import SessionData, load_session

RUNTIME = 1
CAMERAS = {51: "face", 62: "left", 73: "right"}
SOURCES = (RUNTIME, *CAMERAS, *MODULES)

Tables = dict[str, pl.DataFrame]


def extract(paths: SessionPaths, data: SessionData, source: int) -> tuple[Tables, list[str]]:
    """Return a source's tables by path below processed_data (without suffix), and what people must know of them.

    Raises:
        SessionDataError: the log, or a file that says how to read it, is missing parts or damaged; or source_data has
            lost the log that raw_data has.
    """
    name = f"behavior_data/{source}_log.npz"
    log = paths.source_data / name
    if not log.exists():
        if (paths.raw_data / name).exists():
            raise SessionDataError(f"{log} is not there, but raw_data has it. Nothing was written. {_remedy(paths)}")
        return {}, [f"{log.name} is not there: source {source} was skipped"]
    messages = read_log(log, _remedy(paths))
    if source in CAMERAS:
        frames = [time for time, payload in messages if not payload]
        times = pl.DataFrame({"frame_time_us": pl.Series(frames, dtype=pl.UInt64)})
        return {f"camera_data/{CAMERAS[source]}_camera_timestamps": times}, []
    tables, notes = (
        (runtime_tables(messages, _corridor(paths, data)), [])
        if source == RUNTIME
        else _microcontroller(paths, source, messages, codes_of(data.sl_experiment_version))
    )
    return {f"behavior_data/{name}": table for name, table in tables.items()}, notes


def write(table: pl.DataFrame, path: Path) -> Output:
    """Write a table as an uncompressed feather file, whole or not at all."""
    buffer = io.BytesIO()
    table.write_ipc(buffer, compression="uncompressed")
    content = buffer.getvalue()
    make_directory(path.parent)
    atomic_write(path, content)
    relative = path.relative_to(path.parents[2]).as_posix()
    return Output(relative, len(content), xxhash.xxh3_128_hexdigest(content))


def _corridor(paths: SessionPaths, data: SessionData) -> Corridor | None:
    if data.session_type is not SessionTypes.MESOSCOPE_EXPERIMENT:
        return None
    return Corridor.from_yaml(_description(paths, "experiment_configuration.yaml"))


def _microcontroller(paths: SessionPaths, source: int, messages: Messages, codes: Codes) -> tuple[Tables, list[str]]:
    """Extract the modules of a microcontroller that were used; the others are in the notes."""
    state = _description(paths, "hardware_state.yaml")
    used, notes = {}, []
    for module in MODULES[source]:
        values = [state.get(key) for key in module.calibration]
        if not module.used(state):
            notes.append(f"{module.table}: not used, hardware_state.yaml has no {' and '.join(module.calibration)}")
        elif not all(isinstance(value, int | float) for value in values):
            raise SessionDataError(
                f"hardware_state.yaml of {paths} says {', '.join(module.calibration)} is {values}, which is no number. "
                "Nothing was written. Correct the file."
            )
        else:
            used[module] = values
    events = module_events(messages, codes, {module.key for module in used})
    return {module.table: module.make(events[module.key], codes, *values) for module, values in used.items()}, notes


def _description(paths: SessionPaths, name: str) -> dict[str, Any]:
    path = paths.source_data / name
    try:
        return load_yaml(path, _remedy(paths))
    except FileNotFoundError:
        raise SessionDataError(f"{path} is missing. Nothing was written. {_remedy(paths)}") from None


def _remedy(paths: SessionPaths) -> str:
    """Say how a damaged file of source_data comes back: it is a copy, unless there is one volume only."""
    if paths.volumes.one:
        return RESTORE
    again = commands.run(ProcessingPipelines.PREPARATION, paths, "--reprocess")
    return f"Restore it from the acquisition computer, or, if raw_data has it whole, copy it anew: {again}"


def main() -> None:
    """Carry out the command line."""
    parser = session_parser("Extracts the tables of one hardware log.")
    parser.add_argument("--source", type=int, required=True, choices=SOURCES, help="the log's DataLogger source")
    arguments = parser.parse_args()
    paths = session_paths(arguments)
    data = load_session(paths)
    check_owner(paths, arguments.manager_id)
    tables, notes = extract(paths, data, arguments.source)
    check_owner(paths, arguments.manager_id)
    progress = Progress(len(tables), "tables")
    outputs = []
    for name, table in tables.items():
        outputs.append(write(table, paths.processed_data / f"{name}.feather"))
        progress.show(len(outputs))
    print("\n".join([*(f"{o.path}: {o.size} bytes" for o in outputs), *notes]))
    write_report(outputs, {name: metadata.version(name) for name in ("polars", "numpy")}, notes)


if __name__ == "__main__":
    run(main)
