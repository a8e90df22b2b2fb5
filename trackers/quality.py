"""Whether a session passes quality control: the checks of its report, and what a person has overruled."""

from __future__ import annotations

import json
from typing import Any

from trackers.layout import SessionPaths

QC = "report/qc.json"  # below the results: {"checks": [{"name": …, "verdict": "pass", "warn" or "fail", …}, …]}
VERDICTS = "verdicts.json"  # in tracking_data: {check: {"verdict": …, "reason": …, "by": …}, …}
FAIL = "fail"


def quality_objection(paths: SessionPaths) -> str:
    """Say why a session does not pass quality control; empty where it does.

    A person's verdict on a check counts before the report's own. A session without a report does not pass.
    """
    try:
        found = next(f for d in (paths.processed_data, paths.archived_data) if (f := d / QC).exists())
    except StopIteration:
        return "it has no quality control yet: run its report first"
    overruled = paths.tracking_data / VERDICTS
    try:
        verdicts = {str(check["name"]): str(check["verdict"]) for check in _read(found)["checks"]}
        if overruled.exists():
            verdicts |= {name: str(word["verdict"]) for name, word in _read(overruled).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its quality control cannot be read ({error!r}): run its report again"
    failed = sorted(name for name, verdict in verdicts.items() if verdict == FAIL)
    return f"quality control says no: {', '.join(failed)}" if failed else ""


def _read(path: Any) -> Any:
    return json.loads(path.read_bytes())
