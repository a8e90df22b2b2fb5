"""Daemons of a test cluster: each has a log and a pid file in the folder, so that any process can end them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from trackers.processes import ProcessIdentity

MARK = "SESSIONFLOW_TEST_CLUSTER"  # in the environment of what belongs to a cluster; its value is the folder
DEBIAN_PACKAGES = "slurm-wlm slurmdbd munge openssh-server openssh-client mariadb-server"
TEMPORARY = "sessionflow-test-"
OWNER = "owner"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ClusterError(Exception):
    """The test cluster, or a command of it, does not do what it should."""


class UnavailableError(ClusterError):
    """This machine cannot run what was asked for; the text says what to install or allow."""


class Daemon:
    """A program that runs in the foreground of a session of its own, and can be ended and started again.

    Attributes:
        log: what it printed, over all its starts.
    """

    def __init__(self, folder: Path, name: str, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.command = command
        self.log = folder / f"{name}.log"
        self._pid_file = folder / f"{name}.pid"
        self._environment = {"PATH": SYSTEM_PATH, "HOME": str(Path.home()), "LANG": "C.UTF-8", MARK: str(folder)}
        self._environment.update(environment or {})
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> ProcessIdentity | None:
        """The process while it lives, whoever started it."""
        return living(self._pid_file)

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.process:
            return
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd="/",
                start_new_session=True,
            )
        with contextlib.suppress(ProcessLookupError):  # it may have ended already; its log says why
            write_identity(self._pid_file, ProcessIdentity.of(self._child.pid))

    def stop(self, seconds: float = 20.0) -> None:
        """End it with TERM; with KILL when that takes too long."""
        self._signal(signal.SIGTERM)
        self.resume()
        if not self._gone_within(seconds):
            self.kill()

    def kill(self) -> None:
        """End it as kill -9 does."""
        self._signal(signal.SIGKILL)
        if not self._gone_within(10.0):
            raise ClusterError(f"{self.name} outlives SIGKILL.")

    def pause(self) -> None:
        """Let it hang: connections to it are accepted by the kernel, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._signal(signal.SIGCONT)

    def tail(self, lines: int = 15) -> str:
        """Return the log's last lines."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _signal(self, number: int) -> None:
        if process := self.process:
            send(process.pid, number)

    def _gone_within(self, seconds: float) -> bool:
        def gone() -> bool:
            if self._child:
                self._child.poll()  # else it stays as a zombie
            return self.process is None

        return wait_until(gone, seconds)


def wait_until(holds: Callable[[], object], seconds: float) -> bool:
    """Wait until `holds()` is true; return whether it became so in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.03)
    return True


def send(pid: int, number: int) -> None:
    """Signal a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def program(name: str) -> str:
    """Return a daemon's path, also where sbin is not on PATH.

    Raises:
        UnavailableError: it is not installed.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if not found:
        raise UnavailableError(f"{name} is not installed: apt-get install {DEBIAN_PACKAGES}")
    return found


def require(*names: str) -> None:
    """Make sure that programs are installed.

    Raises:
        UnavailableError: one is not.
    """
    for name in names:
        program(name)


def free_port() -> int:
    """Return a port that nobody listens on, and that no outgoing connection is given while its daemon is away."""
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(100):
        port = random.randrange(max(1024, first_outgoing - 14000), first_outgoing)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise UnavailableError("No free port was found on 127.0.0.1.")


def temporary_folder() -> Path:
    """Make a folder with a short path; `python -m tests.cluster down` removes it once this process is dead."""
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir="/tmp"))
    write_identity(folder / OWNER, ProcessIdentity.of_this_process())
    return folder


def left_over() -> set[Path]:
    """Return the temporary folders whose process is dead."""
    return {file.parent for file in Path("/tmp").glob(f"{TEMPORARY}*/{OWNER}") if living(file) is None}


def write_identity(file: Path, process: ProcessIdentity) -> None:
    """Write a pid file, whole."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(json.dumps(asdict(process)))
    new.rename(file)


def living(pid_file: Path) -> ProcessIdentity | None:
    """Return the process that a pid file names, if it lives."""
    try:
        process = ProcessIdentity(**json.loads(pid_file.read_text()))
    except (FileNotFoundError, ValueError):
        return None
    return None if process.gone() else process


def belonging(folder: Path) -> set[int]:
    """Return the pids of all that a cluster or its people started: daemons, connections, logins, jobs.

    Other processes of the machine are left out, also a person's shell that exports SLURM_CONF.
    """
    pids = {process.pid for file in folder.glob("*.pid") if (process := living(file))}
    parents: dict[int, int] = {}
    for pid, directory in _processes():
        try:
            environment = set((directory / "environ").read_bytes().split(b"\0"))
            name = (directory / "comm").read_text().strip()
            status = (directory / "status").read_text()
        except OSError:  # it ended meanwhile
            continue
        if "\nState:\tZ" in status:
            continue
        parents[pid] = int(status.split("\nPPid:\t")[1].split()[0])
        of_a_job = name.startswith("slurm") or any(entry.startswith(b"SLURM_JOB_ID=") for entry in environment)
        if (
            f"{MARK}={folder}".encode() in environment
            or (of_a_job and f"SLURM_CONF={folder}/slurm.conf".encode() in environment)
            or (name == "sshd" and _writes_into(directory, folder))  # it overwrites its environment with its title
        ):
            pids.add(pid)
    while children := {pid for pid, parent in parents.items() if parent in pids} - pids:
        pids |= children
    return pids - {os.getpid(), os.getppid()}


def job_processes(folder: Path, job: str) -> set[int]:
    """Return the pids of a job's script and of what it started, without the slurmstepd that watches over them."""
    wanted = {f"SLURM_CONF={folder}/slurm.conf".encode(), f"SLURM_JOB_ID={job}".encode()}
    found = set()
    for pid, directory in _processes():
        with contextlib.suppress(OSError):
            if wanted <= set((directory / "environ").read_bytes().split(b"\0")):
                found.add(pid)
    return found


def end_everything(folder: Path, *, remove: bool = False) -> None:
    """Kill all that belongs to a cluster, jobs included, until nothing is left; remove its folder if told to."""

    def nothing_left() -> bool:
        pids = belonging(folder)
        for pid in pids:
            send(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # ours become zombies otherwise
        return not pids

    if not wait_until(nothing_left, 20.0):
        raise ClusterError(f"Processes {sorted(belonging(folder))} of the test cluster {folder} outlive SIGKILL.")
    if remove:
        shutil.rmtree(folder, ignore_errors=True)


def _processes() -> Iterator[tuple[int, Path]]:
    return ((int(entry.name), entry) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _writes_into(process: Path, folder: Path) -> bool:
    try:
        targets = [str(entry.readlink()) for entry in (process / "fd").iterdir()]
    except OSError:
        return False
    return any(target.startswith(f"{folder}/") for target in targets)
