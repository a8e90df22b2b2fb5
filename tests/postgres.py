"""A Postgres of its own for tests: in a temporary folder, on a port of loopback, as an account that is not root."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.prefect_server import free_port

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
MISSING = (
    "" if BINARIES and shutil.which("pg_dump") and shutil.which("runuser") else "Debian's postgresql is not installed"
)


class Postgres:
    """`initdb` and `postgres` in a folder; `url` names an empty database."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self.port = free_port()
        # initdb refuses root; as root the folder and all above it must be open to the other account
        self._account = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._account:
            for parent in (folder, *folder.parents[:-2]):
                parent.chmod(parent.stat().st_mode | 0o011)
            shutil.chown(folder, "postgres")
        self._run("initdb", "--pgdata", str(self._data), "--username=prefect", "--auth=trust", "--no-sync")
        self._start()
        self.psql("CREATE DATABASE lab", database="postgres")

    @property
    def url(self) -> str:
        return f"postgresql://prefect@127.0.0.1:{self.port}/lab"

    def psql(self, query: str, database: str = "lab") -> str:
        place = f"postgresql://prefect@127.0.0.1:{self.port}/{database}"
        return subprocess.run(["psql", "-XAt", place, "-c", query], capture_output=True, text=True, check=True).stdout

    def restart(self, away: float) -> None:
        """Stop it, cutting off whoever is connected, and start it again after so many seconds."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "fast", "stop")
        time.sleep(away)
        self._start()

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ends itself when its folder is removed
            os.kill(self._pid, signal.SIGQUIT)

    def _start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._data / "log"), "-o", options, "start")
        self._pid = int((self._data / "postmaster.pid").read_text().split()[0])

    def _run(self, program: str, *words: str) -> None:
        command = [*self._account, str(BINARIES[-1] / program), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, cwd="/")
