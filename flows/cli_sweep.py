"""The command that finds, and repairs, what dead managers left behind."""

from __future__ import annotations

import argparse
import asyncio

from flows.cli import server_of
from tasks.reports import SweepReport


def sweep(arguments: argparse.Namespace) -> int:
    """Print what was left behind, and what was done about it; without --repair nothing is."""
    report = asyncio.run((_repaired if arguments.repair else _found)(arguments))
    print(report.page)
    if any(finding.outcome == "found" for finding in report.findings):
        print("Nothing was changed. The same command with --repair does it.")
    return 0 if report.succeeded else 1


async def _found(arguments: argparse.Namespace) -> SweepReport:
    from tasks.client import connected
    from tasks.sweep import swept

    async with connected(server_of(arguments)) as client:
        return await swept(client, arguments.projects)


async def _repaired(arguments: argparse.Namespace) -> SweepReport:
    from flows.sweep import sweep as flow
    from tasks.compute_server import ComputeServer

    server = ComputeServer(**server_of(arguments).model_dump())
    report: SweepReport = await flow(arguments.projects, server, requested_by=arguments.requested_by)
    return report
