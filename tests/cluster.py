"""A real Slurm cluster on loopback, reached through a real sshd, for tests and for people.

    python -m tests.cluster up [--nodes N] [FOLDER]
    python -m tests.cluster status
    python -m tests.cluster down [FOLDER]

It runs as root, on free ports, in one folder; nothing is written to /etc. Several may run side by side.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.daemon import (
    MARK,
    SYSTEM_PATH,
    ClusterError,
    Daemon,
    UnavailableError,
    end_everything,
    free_port,
    wait_until,
)
from tests.sshd import Sshd, program
from trackers.processes import ProcessIdentity

LONGEST_FOLDER = 60  # names of sockets in it may have 107 bytes

# What a wrapper of `Cluster.wrap` can do instead of its program, which is "$REAL".
HANGS = "exec sleep 1000"
FAILS = 'echo "$NAME: error: Unable to contact slurm controller (connect failure)" >&2; exit 1'
PRINTS_GARBAGE = "head -c 400 /dev/urandom"
PRINTS_HALF = 'all=$("$REAL" "$@"); printf %s "$all" | head -c $((${#all} / 2))'
DOES_IT_BUT_TIMES_OUT = """"$REAL" "$@" >/dev/null
echo "$NAME: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1"""

SLURM_CONF = {
    "ClusterName": "test",
    "SlurmctldHost": "localhost(127.0.0.1)",
    "SlurmUser": "root",
    "SlurmdUser": "root",
    "AuthType": "auth/munge",
    "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",  # loopback only
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core_Memory",
    "DefMemPerCPU": 100,  # else a job that asks for none gets all
    "SlurmdParameters": "config_overrides",
    "MpiDefault": "none",
    "MailProg": "/bin/true",
    "ReturnToService": 2,
    "EpilogMsgTime": 0,
    # Memory limits without cgroups.
    "JobAcctGatherType": "jobacct_gather/linux",
    "JobAcctGatherFrequency": "task=2",
    "JobAcctGatherParams": "OverMemoryKill",
    "SchedulerParameters": "sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=1,"
    "default_queue_depth=2000,partition_job_depth=2000",
}


class Cluster:
    """munged, slurmctld, one slurmd per node and an sshd, each a `Daemon` that can be ended and started alone.

    Attributes:
        folder: where everything is.
        munged, slurmctld: daemons.
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
        gpus: int = 0,
        slurm_conf: dict[str, object] | None = None,
        slurm_lines: tuple[str, ...] = (),
        sshd: dict[str, object] | None = None,
    ) -> None:
        """Write configuration and keys; start nothing.

        Args:
            folder: for everything, with a short path; none: a new temporary one, removed by `stop`.
            nodes: how many; each has 64 CPUs and 200 GB that do not exist.
            gpus: of each node; they do not exist either.
            slurm_conf: lines of slurm.conf; SchedulerParameters are added to ours, anything else replaces it.
            slurm_lines: further lines, such as partitions.
            sshd: arguments of `Sshd`, such as {"authentication": "keyboard-interactive"}.

        Raises:
            UnavailableError: a program is missing, or this is not root.
        """
        if os.getuid():
            raise UnavailableError("The test cluster needs root: its daemons run jobs and logins under their accounts.")
        self._temporary = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        if self._temporary:
            (self.folder / "owner").write_text(json.dumps(asdict(ProcessIdentity.of_this_process())))
        if len(str(self.folder)) > LONGEST_FOLDER:
            raise ClusterError(f"{self.folder} is too long for the sockets in it: at most {LONGEST_FOLDER} characters.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
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
        self._write_configuration(gpus, slurm_conf or {}, slurm_lines)
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
        self.munged.start()
        if not wait_until(self._munge_answers, 10.0):
            raise ClusterError(self.diagnose())
        self.slurmctld.start()
        for slurmd in self.slurmds.values():
            slurmd.start()
        self.sshd.start()
        self.wait_ready()
        return self

    def stop(self) -> None:
        """End everything, with jobs and logins; a temporary folder is removed."""
        end_everything(self.folder)
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

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
        if not wait_until(self._ready, seconds):
            raise ClusterError(self.diagnose())

    def diagnose(self) -> str:
        """Return which daemons run and the last lines of their logs."""
        parts = [f"The test cluster in {self.folder} is not up: {self._try('sinfo', '-N', '-h', '-o', '%N %t %E')}"]
        for daemon in (*self.daemons.values(), self.sshd.daemon):
            parts.append(f"--- {daemon.name}: {'runs' if daemon.process else 'does not run'}\n{daemon.tail()}")
        return "\n".join(parts)

    @property
    def daemons(self) -> dict[str, Daemon]:
        """Slurm's daemons by name, in the order in which they are started."""
        return {daemon.name: daemon for daemon in (self.munged, self.slurmctld, *self.slurmds.values())}

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

    def requeue(self, job: str) -> None:
        """Put a running job back into the queue and let it start again without Slurm's wait of two minutes."""
        self.command("scontrol", "requeue", job)
        self.wait(job, "PENDING")
        self.command("scontrol", "update", f"JobId={job}", "StartTime=now")

    def set_node(self, node: str, state: str) -> None:
        """Set a node DOWN, DRAIN or RESUME, as an administrator does."""
        reason = [] if state == "RESUME" else ["Reason=test"]
        self.command("scontrol", "update", f"NodeName={node}", f"State={state}", *reason)

    def wrap(self, name: str, text: str, times: int = 0) -> None:
        """Put lines of shell before a program, for logins and for `environment`; it is "$REAL", called as "$NAME".

        Args:
            name: sbatch, squeue, sacct, scancel, …
            text: what to run instead, with the arguments in "$@": one of this module's constants, or your own.
            times: how many calls are treated so, before the real program answers again; 0: all.
        """
        self.unwrap(name)
        turns = self.bin / f".{name}"
        turns.mkdir()
        for turn in range(times):
            (turns / str(turn)).touch()
        head = f"REAL={program(name)} NAME={name}\nexport {MARK}={self.folder}\n"
        if times:
            head += f'for turn in {turns}/*; do rm "$turn" 2>/dev/null && mine=1 && break; done\n'
            head += '[ "$mine" ] || exec "$REAL" "$@"\n'
        file = self.bin / f"{name}.new"
        file.write_text(f"#!/bin/bash\n{head}{text}\n")
        file.chmod(0o755)
        file.rename(self.bin / name)

    def unwrap(self, *names: str) -> None:
        """Take away what `wrap` put there; without names all of it."""
        for name in names or [file.name for file in self.bin.glob("[!.]*")]:
            (self.bin / name).unlink(missing_ok=True)
            shutil.rmtree(self.bin / f".{name}", ignore_errors=True)

    def tidy(self) -> None:
        """Make a used cluster as good as new: everything runs, no wrappers, nodes in service, no jobs."""
        self.unwrap()
        for daemon in (*self.daemons.values(), self.sshd.daemon):
            daemon.resume()
        self.start()
        if self.command("squeue", "--noheader"):
            self.command("scancel", "--user=root", "--full")
            self.command("scancel", "--signal=KILL", "--user=root", "--full")
            wait_until(lambda: not self.command("squeue", "--noheader"), 30.0)

    def _write_configuration(self, gpus: int, own: dict[str, object], lines: tuple[str, ...]) -> None:
        (self.folder / "state").mkdir(exist_ok=True)
        where = {
            "AuthInfo": f"socket={self._socket}",
            "SlurmctldPort": free_port(),
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": f"{self.folder}/spool-%n",
            "SlurmctldPidFile": f"{self.folder}/slurmctld.own",
            "SlurmdPidFile": f"{self.folder}/slurmd-%n.own",
        }
        settings = {**SLURM_CONF, **where, **own}
        if "SchedulerParameters" in own:
            settings["SchedulerParameters"] = f"{SLURM_CONF['SchedulerParameters']},{own['SchedulerParameters']}"
        text = [f"{key}={value}" for key, value in settings.items()]
        if gpus:
            text.append("GresTypes=gpu")
            for number in range(gpus):
                (self.folder / f"gpu{number}").touch()
            (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-{gpus - 1}]\n")
        for node in self.nodes:
            place = f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={free_port()}"
            text.append(f"{place} CPUs=64 RealMemory=200000" + (f" Gres=gpu:{gpus}" if gpus else ""))
        text += ["PartitionName=main Nodes=ALL Default=YES State=UP", *lines]
        self._slurm_conf.write_text("\n".join([*text, ""]))

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
        states = self._try("sinfo", "--Node", "--noheader", "--format=%t").split()
        return len(states) >= len(self.nodes) and all(state in ("idle", "mix", "alloc") for state in states)

    def _try(self, *command: str) -> str:
        try:
            return self.command(*command, seconds=20.0)
        except ClusterError as error:
            return str(error)


if __name__ == "__main__":
    from tests.cluster_command import main

    main()
