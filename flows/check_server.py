"""A server checked from Prefect's UI: the walk of `sessionflow server check`, and its list as the run's artifact."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from prefect.artifacts import acreate_markdown_artifact
from prefect.states import Completed, Failed

from flows.form import OfferedServer
from flows.server_flow import NoServer, ServerFlow
from flows.wishes import wishes
from tasks.compute_server import this_computer
from tasks.pages import key_of, plain, table
from tasks.server_check import check
from trackers.check import Finding
from trackers.errors import BadInputError


@functools.partial(
    ServerFlow,  # type: ignore[arg-type]  # mypy cannot tell yet of what function it is a flow
    name="check-server",
    flow_run_name="check-server",
    persist_result=False,
)
async def check_server(server: OfferedServer = None, requested_by: str = "") -> Any:
    """Walk the way to a server: name, login, server side, volumes, scheduler, and whether it admits the jobs.

    Nothing is submitted and nothing is written there. The run fails where a step does; what to do stands beside it.

    Args:
        server: Which; none: this computer, whose worker runs the check.
        requested_by: Who asks; shown with the run, unverified.
    """
    if isinstance(server, NoServer):
        return Failed(message=server.words)
    try:
        server = server or this_computer()
    except BadInputError as error:
        return Failed(message=str(error))
    findings = [finding async for finding in check(server, wishes(server))]
    said = sentence(server.label, findings)
    await acreate_markdown_artifact(page(findings), key_of(server.label, "check-server"), said)
    state = Failed if any(finding.result == "failure" for finding in findings) else Completed
    return state(message=said)


def sentence(server: str, findings: Sequence[Finding]) -> str:
    """Return what a check found: why it failed and what to do, or how many steps are how."""
    for finding in findings:
        if finding.result == "failure":
            remedy = f" {finding.remedy}" if finding.remedy else ""
            return f"{server}: {finding.step}: {finding.words.rstrip('.')}.{remedy}"
    counts = Counter(finding.result for finding in findings)
    return f"{server}: {', '.join(f'{count} {result}' for result, count in counts.items())}"


def page(findings: Sequence[Finding]) -> str:
    """Return what a check found as a table, a row for each step, in their order."""
    columns = ("step", "", "found", "what to do")
    return table(columns, ([f.step, f.result, plain(f.words), _remedy(f)] for f in findings))


def _remedy(finding: Finding) -> str:
    return plain(finding.remedy) if finding.result != "ok" else ""
