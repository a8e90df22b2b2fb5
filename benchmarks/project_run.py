"""Run a project of trivial jobs as flows: `python -m benchmarks.project_run SERVER SESSIONS [null]`.

All sessions are let in at once. With `null`, every call to the server side is answered at once, as if all jobs had
succeeded already: what is left is Prefect's own share, and ours in this process.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import graphs
from flows import volumes
from tasks import client
from tasks.compute_server import ComputeServer
from tests import trivial_project
from trackers.facts import project_status
from trackers.site import Site

Facts = dict[str, Any]


class NullServer:
    """A server side that knows the sessions of a project from the disk, and believes that every job has succeeded."""

    def __init__(self, server: ComputeServer) -> None:
        site = Site.from_json({"storage": server.storage, "working": server.working})
        self._rows = {f"{row['animal']}/{row['session']}": row for row in project_status(site, trivial_project.PROJECT)}
        self._done: defaultdict[str, set[str]] = defaultdict(set)

    def answer(self, call: str, arguments: dict[str, Any]) -> Any:
        """Answer a request."""
        session = f"{arguments.get('animal')}/{arguments.get('session')}"
        if call == "status":
            return [self._facts(name) for name in self._rows]
        if call == "describe":
            return self._facts(session)
        found = graphs.answer(call, arguments)
        if call == "finish":
            self._done[session].add(arguments["pipeline"])
        return found

    def _facts(self, session: str) -> Facts:
        row, done = self._rows[session], self._done[session]
        pipelines = {
            name: {**facts, "status": "succeeded" if name in done else ""} for name, facts in row["pipelines"].items()
        }
        return {**row, "pipelines": pipelines, "planes": 1}


def main() -> None:
    """Carry out the command line."""
    path, sessions, *words = sys.argv[1:]
    server = ComputeServer(**json.loads(Path(path).read_text()))
    volumes.SIZES.update(dict.fromkeys(volumes.SIZES, int(sessions)))
    if "null" in words:
        null = NullServer(server)

        async def open_channel(_server: Any) -> graphs.NullChannel:
            return graphs.NullChannel(null.answer)

        client.open_channel = open_channel  # type: ignore[assignment]
    print(json.dumps(asyncio.run(trivial_project.main(server, {"maximum_sessions": int(sessions)}))))


if __name__ == "__main__":
    main()
