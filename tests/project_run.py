"""A project's run in a process of its own: `python -m tests.project_run ROOT [OPTIONS]`, options of the flow as JSON.

Checksum jobs say when they begin and end, and wait for what their test wants; see `Project`. It prints how every
session stands as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.process_project import ENDED, process_project
from jobs.checksum import directory_checksum
from tasks.compute_server import ComputeServer
from tasks.reports import SessionOutcome
from tests.conftest import make_session
from tests.prefect_server import REPOSITORY, PrefectServer
from trackers.errors import SessionflowError
from trackers.facts import describe
from trackers.names import ProcessingPipelines
from trackers.session import CHECKSUM_FILE
from trackers.site import Site
from trackers.targets import Target

FIRST = datetime(2025, 8, 26, 18, 30, 15, 123456)


def name(number: int) -> str:
    """Return the name of the session of a day, counted from 0."""
    return (FIRST + timedelta(days=number)).strftime("%Y-%m-%d-%H-%M-%S-%f")


class Project:
    """A project whose sessions have a checksum only, and whose checksum jobs are watched and held up.

    A job writes `begin N` to `trace`, waits until the file `go` is there, sleeps SECONDS, runs, and writes `end N`.
    """

    def __init__(self, root: Path, sessions: int, seconds: float = 0.0, *, held: bool = False) -> None:
        self.root = root
        self.names = [name(number) for number in range(sessions)]
        (root / "working").mkdir()
        for session in self.names:
            self.add(session)
        if not held:
            (root / "go").touch()
        python, trace = shlex.quote(sys.executable), shlex.quote(str(root / "trace"))
        (root / "python").write_text(
            f"""#!/bin/bash
export PYTHONPATH={shlex.quote(str(REPOSITORY))}
case "$*" in
*jobs.checksum*)
    name=$(grep -o "session [0-9-]*" <<< "$*"); name=${{name#session }}
    echo "begin $name" >> {trace}
    until [ -e {shlex.quote(str(root / "go"))} ]; do sleep 0.05; done
    sleep {seconds}
    {python} "$@"; code=$?
    echo "end $name" >> {trace}
    exit $code;;
esac
exec {python} "$@"
"""
        )
        (root / "python").chmod(0o755)

    def add(self, session: str, **changes: Any) -> Path:
        """Write one more session."""
        directory = make_session(self.root / "storage", session=session, kind="window checking", **changes)
        (directory / "raw_data" / "movie.bin").write_bytes(session.encode())
        self.verify(session)
        return directory

    def verify(self, session: str, checksum: str = "") -> None:
        """Write the checksum that the session's data has, or another one."""
        raw_data = self.raw_data(session)
        (raw_data / CHECKSUM_FILE).write_text(checksum or directory_checksum(raw_data))

    def raw_data(self, session: str) -> Path:
        return self.root / "storage" / "Project" / "305" / session / "raw_data"

    def target(self, session: str) -> Target:
        roots = {"storage": str(self.root / "storage"), "working": str(self.root / "working")}
        return Target(Site.from_json(roots), "Project", "305", session)

    @property
    def server(self) -> ComputeServer:
        return server_of(self.root)

    def trace(self, word: str = "begin") -> list[str]:
        """Return the sessions whose checksum jobs have begun, or ended, in order."""
        path = self.root / "trace"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[1] for line in lines if line.startswith(word)]

    def facts(self, session: str) -> dict[str, Any]:
        """Return what the server side says of a session."""
        return describe(self.target(session))

    def submitted(self) -> list[str]:
        """Return the sessions whose checksum has been handed over, or is being."""
        folders = {session: self.target(session).submissions(ProcessingPipelines.CHECKSUM) for session in self.names}
        return [session for session, folder in folders.items() if folder.numbers()]

    def locked(self) -> list[str]:
        return [session for session in self.names if not self.target(session).lock.read().free]

    def trackers(self) -> set[str]:
        """Return all that the checksum's trackers say."""
        states = [self.target(session).tracker(ProcessingPipelines.CHECKSUM).read() for session in self.names]
        return {
            "running" if s.running else "complete" if s.complete else "failed" if s.encountered_error else ""
            for s in states
        }


class ProjectRun:
    """A run of a project in a process of its own."""

    def __init__(self, project: Project, prefect: PrefectServer, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.project_run", str(project.root), json.dumps(options)],
            env=prefect.environment,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until(self, condition: Any, seconds: float = 60) -> None:
        """Wait until `condition()` holds; else fail with what the run has said."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.process.kill()
                raise AssertionError(self.process.communicate())
            time.sleep(0.05)

    def end(self, seconds: float = 90) -> tuple[int, dict[str, Any]]:
        """Wait for its end; return exit code and what it printed: sessions by name, or an error."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(self.process.communicate()) from None
        lines = out.strip().splitlines()
        return self.process.returncode, json.loads(lines[-1]) if lines else {"stderr": err}


def server_of(root: Path) -> ComputeServer:
    return ComputeServer(
        storage_root=str(root / "storage"),
        working_root=str(root / "working"),
        environments={"core": {"python": str(root / "python")}},
    )


class Handlers:
    """Whose SIGTERM is, looked at all the time between the first session's end and the last one but one's."""

    def __init__(self, sessions: int) -> None:
        self.seen: set[str] = set()
        self._left = sessions - 1
        self._looking = threading.Thread(target=self._look, daemon=True)

    def ended(self, _outcome: SessionOutcome) -> None:
        self._left -= 1
        if self._looking.ident is None and self._left:
            self._looking.start()

    def _look(self) -> None:
        while self._left > 0:
            handler = signal.getsignal(signal.SIGTERM)
            self.seen.add(getattr(handler, "__qualname__", str(handler)))
            time.sleep(0.001)


def processed(project: Project, prefect: PrefectServer, **options: Any) -> tuple[int, dict[str, Any]]:
    """Run a project in this process; return what `ProjectRun.end` does, without the seconds of a start."""
    with temporary_settings({PREFECT_API_URL: prefect.api}):
        return asyncio.run(outcome(project.root, options))


async def outcome(root: Path, options: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Run a project; return the exit code, and how its sessions stand or an error."""
    if "failed_since" in options:
        options["failed_since"] = date.fromisoformat(options["failed_since"])
    handlers = Handlers(len(list((root / "storage" / "Project" / "305").iterdir())))
    ENDED.set(handlers.ended)
    try:
        report = await process_project("Project", server_of(root), **options)
    except SessionflowError as error:
        return error.exit_code, {"error": str(error)}
    found = {s.session: [s.standing, s.words, bool(s.flow_run_id)] for s in report.sessions}
    order = [s.session for s in report.sessions]
    said = {"sessions": found, "order": order, "sentence": report.sentence, "handlers": sorted(handlers.seen)}
    return 0 if report.succeeded else 1, said


if __name__ == "__main__":
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    code, found = asyncio.run(outcome(Path(sys.argv[1]), json.loads(sys.argv[2])))
    print(json.dumps(found))
    sys.exit(code)
