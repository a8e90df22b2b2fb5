"""The result record: what a success was made of."""

from __future__ import annotations

import contextlib
import functools
import json
import platform
from pathlib import Path
from typing import Any

import xxhash

from trackers.files import atomic_write, make_directory
from trackers.session import CHECKSUM_FILE
from trackers.submission import Submission, SubmissionFolder
from trackers.targets import Target


def write_result(target: Target, submission: Submission, folder: SubmissionFolder, facts: dict[str, Any]) -> None:
    """Write the result record of a submission all of whose jobs have succeeded.

    Outputs, with size in bytes and xxh3-128, and versions come from the reports that the job programs left.
    """
    reports = [report for job in submission.attempts if (report := _report(folder, submission, job))]
    record = {
        "version": 1,
        "target": submission.target,
        "pipeline": submission.pipeline.name,
        "submission": submission.name,
        "digest": submission.digest,
        "settings": submission.settings,
        "versions": {
            "sessionflow": own_version(),
            "python": platform.python_version(),
            **_merged(reports, "versions"),
        },
        "inputs": {"raw_data_checksum": raw_data_checksum(target)},
        "outputs": sorted((o for r in reports for o in r.get("outputs", [])), key=lambda o: str(o.get("path"))),
        "notes": [note for r in reports for note in r.get("notes", [])],
        "requested_by": submission.requested_by,
        "flow_run_id": submission.flow_run_id,
        "opened": submission.opened,
        "ended": submission.ended,
        **facts,
    }
    path = target.result(submission.pipeline)
    make_directory(path.parent)
    atomic_write(path, json.dumps(record, indent=1, ensure_ascii=False).encode(errors="surrogateescape"))


def file_digest(path: Path) -> str:
    """Return a file's xxh3-128, as result records name it.

    Raises:
        OSError: it cannot be read.
    """
    import hashlib  # takes a part of the server side's start

    with path.open("rb") as file:
        return str(hashlib.file_digest(file, xxhash.xxh3_128).hexdigest())


def _report(folder: SubmissionFolder, submission: Submission, job: str) -> dict[str, Any] | None:
    for attempt in reversed(submission.attempts[job]):
        with contextlib.suppress(OSError, ValueError):
            report = json.loads(folder.attempt_files(submission, job, attempt.number).report.read_bytes())
            if isinstance(report, dict):
                return report
    return None


def _merged(reports: list[dict[str, Any]], key: str) -> dict[str, Any]:
    return {name: value for report in reports for name, value in report.get(key, {}).items()}


def raw_data_checksum(target: Target) -> str:
    """Return the checksum of a session's raw data as it was acquired; empty where there is none, and for a project."""
    if not target.session:
        return ""
    try:
        return (target.paths.raw_data / CHECKSUM_FILE).read_text(errors="replace").strip()
    except OSError:
        return ""


@functools.cache
def own_version() -> str:
    """Return sessionflow's version as it is installed here."""
    from importlib import metadata  # takes as long as a tenth of the server side's start

    try:
        return metadata.version("sessionflow")
    except metadata.PackageNotFoundError:
        return "unknown"
