"""A real Slurm cluster on loopback, reached through a real sshd, for tests and for people.

    python -m tests.cluster up [--accounting] [--nodes N] [FOLDER]
    python -m tests.cluster status
    python -m tests.cluster down [FOLDER]

It runs as root, on free ports, in one folder; nothing is written to /etc. Several may run side by side.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
from pathlib import Path

from tests.accounting import Accounting
from tests.daemon import (
    SYSTEM_PATH,
    ClusterError,
    Daemon,
    UnavailableError,
    end_everything,
    job_processes,
    program,
    require,
    temporary_folder,
    wait_until,
)
from tests.slurm_conf import write_slurm_conf
from tests.sshd import Sshd
from tests.wrappers import unwrap, wrap

LONGEST_FOLDER = 60  # names of sockets in it may have 107 bytes


class Cluster:
    """munged, slurmctld, one slurmd per node and an sshd, each a `Daemon` that can be ended and started alone.

    Attributes:
        folder: where everything is.
        munged, slurmctld: daemons; see `write_state` before you kill slurmctld.
        accounting: slurmdbd and its database, where there are any.
        slurmds: the nodes' daemons by the nodes' names, node1 and so on.
        sshd: the way in; a login finds SLURM_CONF, `bin` first on its PATH, and an empty HOME in the folder.
        bin: folder for programs that stand in front of Slurm's own.
        environment: for processes that use the cluster without sshd.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        nodes: int = 2,
        accounting: bool = False,
        gpus: int = 0,
        slurm_conf: dict[str, object] | None = None,
        slurm_lines: tuple[str, ...] = (),
        sshd: dict[str, object] | None = None,
    ) -> None:
        """Write configuration and keys; start nothing.

        Args:
            folder: for everything, with a short path; none: a new temporary one, removed by `stop`.
            nodes: how many; each has 64 CPUs and 200 GB that do not exist.
            accounting: whether sacct works and limits are enforced; root and `sshd`'s account belong to account `lab`.
            gpus: of each node; they do not exist either.
            slurm_conf: lines of slurm.conf; SchedulerParameters are added to ours, anything else replaces it.
            slurm_lines: further lines, such as partitions.
            sshd: arguments of `Sshd`, such as {"authentication": "keyboard-interactive"}.

        Raises:
            UnavailableError: a program is missing, or this is not root.
        """
        if os.getuid():
            raise UnavailableError("The test cluster needs root: its daemons run jobs and logins under their accounts.")
        require("munged", "slurmctld", "slurmd", "sshd", *(("mariadbd", "slurmdbd") if accounting else ()))
        self._temporary = folder is None
        self.folder = folder or temporary_folder()
        if len(str(self.folder)) > LONGEST_FOLDER:
            raise ClusterError(f"{self.folder} is too long for the sockets in it: at most {LONGEST_FOLDER} characters.")
        if len(str(self.folder).split()) > 1 or nodes < 1:
            raise ClusterError(
                "A test cluster needs a folder without spaces in its path, and a node. Nothing was done."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)  # munged, and accounts other than root
        self.bin = self.folder / "bin"
        self.bin.mkdir(exist_ok=True)
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        self._socket = self.folder / "munge.sock"
        self._slurm_conf = self.folder / "slurm.conf"
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        own = {"SLURM_CONF": str(self._slurm_conf)}
        login = {**own, "PATH": f"{self.bin}:{SYSTEM_PATH}", "HOME": str(home)}
        self.environment = {**os.environ, **own, "PATH": f"{self.bin}:{os.environ.get('PATH', SYSTEM_PATH)}"}
        self._real = {**os.environ, **own, "PATH": SYSTEM_PATH}
        self.accounting = Accounting(self.folder, self._socket) if accounting else None
        of_accounting = self.accounting.slurm_conf if self.accounting else {}
        lines = {**of_accounting, **(slurm_conf or {})}
        write_slurm_conf(self.folder, self._socket, self.nodes, gpus, lines, slurm_lines)
        self.munged = Daemon(self.folder, "munged", self._munged_command())
        self.slurmctld = Daemon(self.folder, "slurmctld", [program("slurmctld"), "-D"], own)
        self.slurmds = {
            node: Daemon(self.folder, node, [program("slurmd"), "-D", "-N", node], own) for node in self.nodes
        }
        self.sshd = Sshd(self.folder, **{"environment": login, **(sshd or {})})  # type: ignore[arg-type]

    def start(self) -> Cluster:
        """Start what does not run, and wait until jobs can be submitted.

        Raises:
            ClusterError: it does not come up; the text has the ends of the logs.
        """
        self._start_daemons()
        self.wait_ready()
        return self

    def stop(self) -> None:
        """End everything, with jobs and logins; a temporary folder is removed."""
        end_everything(self.folder, remove=self._temporary)

    def __enter__(self) -> Cluster:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_ready(self, seconds: float = 30.0) -> None:
        """Wait until the controller answers and every node takes jobs."""
        wait_until(lambda: not self._all_run() or self._ready(), seconds)
        if not self._all_run() or not self._ready():
            raise ClusterError(self.diagnose())

    def diagnose(self) -> str:
        """Return which daemons run and the last lines of their logs."""
        nodes = self._try("sinfo", "--Node", "--noheader", "--format=%N %t %E", seconds=3.0)
        parts = [f"The test cluster in {self.folder} is not up: {nodes}"]
        for daemon in (*self.daemons.values(), self.sshd.daemon):
            parts.append(f"--- {daemon.name}: {'runs' if daemon.process else 'does not run'}\n{daemon.tail()}")
        return "\n".join(parts)

    @property
    def daemons(self) -> dict[str, Daemon]:
        """Slurm's daemons by name, in the order in which they are started."""
        dbd = (self.accounting.mariadbd, self.accounting.slurmdbd) if self.accounting else ()
        return {daemon.name: daemon for daemon in (self.munged, *dbd, self.slurmctld, *self.slurmds.values())}

    def command(self, *command: str, account: str = "root", seconds: float = 60.0) -> str:
        """Return what a Slurm program prints; it is the real one, whatever `wrap` put before it.

        Raises:
            ClusterError: it fails or hangs; with its own words.
        """
        try:
            done = subprocess.run(
                command,
                check=False,
                capture_output=True,
                text=True,
                env=self._real,
                user=account,
                group=pwd.getpwnam(account).pw_gid,
                cwd=self.folder,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"{shlex.join(command)} has not ended after {seconds} s.") from error
        if done.returncode:
            raise ClusterError(f"{shlex.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def submit(self, script: str, *options: str, account: str = "root") -> str:
        """Submit lines of shell as a job; return its id. Its output goes to out-ID in the folder `tmp`."""
        output = self.folder / "tmp"
        output.mkdir(exist_ok=True)
        output.chmod(0o1777)
        arguments = ["--parsable", f"--output={output}/out-%j", *options]
        return self.command("sbatch", *arguments, f"--wrap={script}", account=account).strip()

    def output(self, job: str) -> str:
        """Return what a job of `submit` has printed."""
        file = self.folder / "tmp" / f"out-{job}"
        return file.read_text(errors="replace") if file.exists() else ""

    def job(self, job: str) -> dict[str, str]:
        """Return what `scontrol show job` says of a job; nothing when the controller does not know it."""
        text = self._try("scontrol", "--oneliner", "show", "job", job)
        return dict(re.findall(r"(\w[\w/:]*)=(\S*)", text)) if "JobId=" in text else {}

    def state(self, job: str) -> str:
        """Return a job's state, such as PENDING; empty when the controller does not know it."""
        return self.job(job).get("JobState", "")

    def wait(self, job: str, *states: str, seconds: float = 30.0) -> dict[str, str]:
        """Wait until a job is in one of the states; return what is known of it then."""
        if not wait_until(lambda: self.state(job) in states, seconds):
            raise ClusterError(f"Job {job} is not {' or '.join(states)} but: {self.job(job)}")
        return self.job(job)

    def processes(self, job: str) -> set[int]:
        """Return the pids of what runs for a job, also when Slurm says that it has ended."""
        return job_processes(self.folder, job)

    def requeue(self, job: str) -> None:
        """Put a running job back into the queue and let it start again without Slurm's wait of two minutes."""
        self.command("scontrol", "requeue", job)
        self.wait(job, "PENDING")
        # else the end of the first run takes the script of the second one away, which is what Slurm's wait is for
        wait_until(lambda: not list(self.folder.glob(f"spool-*/job{int(job):05d}")), 20.0)

        def started() -> bool:  # the wait is set at the end of the first run, which may come after an update
            self._try("scontrol", "update", f"JobId={job}", "StartTime=now")
            return wait_until(lambda: self.state(job) != "PENDING", 2.0)

        wait_until(started, 20.0)

    def write_state(self) -> None:
        """Make the controller write down what it knows, which it else does seldom: not each time when it starts a job.

        Killed before that, it comes back not knowing that a job runs (which is killed and started again, with the same
        id and restart count) or that it had accepted it. One that is stopped writes everything down.
        """
        file = self.folder / "state" / "job_state"  # missing before the first time, and for a moment at each

        def written() -> float:
            return file.stat().st_mtime if file.exists() else 0.0

        before = written()
        self.command("scancel", self.submit("true", "--hold"))
        if not wait_until(lambda: written() > before, 20.0):
            raise ClusterError(f"slurmctld has not written {file}.")

    def set_node(self, node: str, state: str) -> None:
        """Set a node DOWN, DRAIN or RESUME, as an administrator does."""
        reason = [] if state == "RESUME" else ["Reason=test"]
        self.command("scontrol", "update", f"NodeName={node}", f"State={state}", *reason)

    def wrap(self, name: str, text: str, times: int = 0) -> None:
        """Put lines of shell before a Slurm program, for logins and for `environment`.

        Args:
            name: sbatch, squeue, sacct, scancel, …
            text: what is done instead: a constant of `tests.wrappers`, or lines of your own.
            times: how many calls are treated so, before the real program answers again; 0: all.
        """
        wrap(self.folder, name, text, times)

    def unwrap(self, *names: str) -> None:
        """Take away what `wrap` put there; without names all of it."""
        unwrap(self.folder, *names)

    def tidy(self) -> None:
        """Make a used cluster as good as new: everything runs, no wrappers, nodes in service, no jobs."""
        self.unwrap()
        for daemon in (*self.daemons.values(), self.sshd.daemon):
            daemon.resume()
        self._start_daemons()
        for node, state in self._node_states().items():
            if state.startswith(("down", "drain", "drng")) and not state.endswith("*"):  # those come back by themselves
                self.set_node(node, "RESUME")
        self.wait_ready()
        if self.command("squeue", "--noheader"):
            self.command("scancel", "--signal=KILL", "--full", *self.command("squeue", "-ho%A").split())
            self.command("scancel", "--user=root")
            wait_until(lambda: not self.command("squeue", "--noheader"), 30.0)

    def _start_daemons(self) -> None:
        self.munged.start()
        if not wait_until(self._munge_answers, 10.0):
            raise ClusterError(self.diagnose())
        if self.accounting:
            self.accounting.start(self.command, {"root", self.sshd.account})
        self.slurmctld.start()
        for slurmd in self.slurmds.values():
            slurmd.start()
        self.sshd.start()

    def _munged_command(self) -> list[str]:
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = {
            "key-file": key,
            "socket": self._socket,
            "seed-file": self.folder / "munged.seed",
            "pid-file": self.folder / "munged.own",
        }
        return [program("munged"), "--foreground", *(f"--{option}={file}" for option, file in files.items())]

    def _munge_answers(self) -> bool:
        command = ["munge", "--no-input", f"--socket={self._socket}"]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def _ready(self) -> bool:
        states = self._node_states()
        return len(states) == len(self.nodes) and all(state in ("idle", "mix", "alloc") for state in states.values())

    def _node_states(self) -> dict[str, str]:
        text = self._try("sinfo", "--Node", "--noheader", "--partition=main", "--format=%N %t")
        return dict(line.split(maxsplit=1) for line in text.splitlines() if line.startswith("node"))

    def _all_run(self) -> bool:
        return all(daemon.process for daemon in self.daemons.values())

    def _try(self, *command: str, seconds: float = 20.0) -> str:
        try:
            return self.command(*command, seconds=seconds)
        except ClusterError as error:
            return str(error)


if __name__ == "__main__":
    from tests.cluster_command import main

    main()
