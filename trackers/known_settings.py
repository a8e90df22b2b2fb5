"""Which pipelines have settings in files, and what they come to for a session or a project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trackers.errors import SessionflowError
from trackers.forging_settings import FORGING
from trackers.layout import ProjectPaths, SessionPaths
from trackers.mesoscope import read_mesoscope
from trackers.names import ProcessingPipelines
from trackers.settings import DEFAULT, Known, Setting, project_files, resolve, settings_files
from trackers.suite2p_settings import SUITE2P

KNOWN: Mapping[ProcessingPipelines, Mapping[str, Known]] = {
    ProcessingPipelines.SUITE2P: SUITE2P,
    ProcessingPipelines.FORGING: FORGING,
}
OF_SESSIONS = (ProcessingPipelines.SUITE2P,)
_TAKEN_FROM_ELSEWHERE = ("fs", "torch_device")  # the recording's rate, the node's card: suite2p's own default is unused


def session_settings(
    paths: SessionPaths, pipeline: ProcessingPipelines, overrides: Mapping[str, Any] | None = None
) -> dict[str, Setting]:
    """Return every setting of one of a session's pipelines, see `trackers.settings.resolve`."""
    return resolve(settings_files(paths), pipeline, KNOWN[pipeline], overrides)


def project_settings(project: ProjectPaths, pipeline: ProcessingPipelines) -> dict[str, Setting]:
    """Return every setting of a pipeline that works on a whole project; no animal or session has its own."""
    return resolve(project_files(project), pipeline, KNOWN[pipeline])


def changes_of(pipeline: ProcessingPipelines, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the library's own: what a run is told, and what tells two runs apart."""
    known = KNOWN[pipeline]
    return {
        name: value
        for name, value in sorted(values.items())
        if name in _TAKEN_FROM_ELSEWHERE or value != known[name].default
    }


def chosen(pipeline: ProcessingPipelines, resolved: Mapping[str, Setting]) -> dict[str, Any]:
    """Return of resolved settings what a run is told."""
    return changes_of(pipeline, {name: s.value for name, s in resolved.items() if s.source != DEFAULT})


def shown(paths: SessionPaths, overrides: Mapping[str, Any] | None = None) -> dict[str, dict[str, tuple[Any, str]]]:
    """Return every setting that holds for a session, by pipeline and name, with where its value comes from.

    Raises:
        BadInputError: a file, a name or a value is wrong; says which.
    """
    suite2p = session_settings(paths, ProcessingPipelines.SUITE2P, overrides)
    if suite2p["fs"].source == DEFAULT:
        suite2p["fs"] = _recorded_rate(paths)
    if suite2p["torch_device"].source == DEFAULT:
        suite2p["torch_device"] = Setting("cuda where a job has a graphics card, else cpu", DEFAULT)
    found = {
        ProcessingPipelines.SUITE2P: suite2p,
        ProcessingPipelines.FORGING: project_settings(paths.project_paths, ProcessingPipelines.FORGING),
    }
    return {p.name: {name: (s.value, s.source) for name, s in settings.items()} for p, settings in found.items()}


def _recorded_rate(paths: SessionPaths) -> Setting:
    for folder in (paths.source_data, paths.raw_data):
        path = folder / "mesoscope_data" / "ops.json"
        if path.exists():
            try:
                return Setting(read_mesoscope(path).fs, str(path))
            except SessionflowError as error:
                return Setting(None, str(error))
    return Setting(None, "the recording's ops.json, which is not there")
