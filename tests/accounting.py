"""Slurm's accounting for a test cluster: slurmdbd and a database of its own, which nothing else can reach."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.daemon import ClusterError, Daemon, free_port, program, wait_until

# Without them there are no stored procedures, which slurmdbd needs; grants are not asked for.
SYSTEM_TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")


class Accounting:
    """mariadbd and slurmdbd, each a `Daemon`.

    Attributes:
        mariadbd, slurmdbd: the daemons.
        slurm_conf: the lines of slurm.conf with which a controller uses them; limits are enforced.
    """

    def __init__(self, folder: Path, munge_socket: Path) -> None:
        self._folder = folder
        self._database_port = free_port()
        self._socket = folder / "mariadb.sock"
        port = free_port()
        self.slurm_conf: dict[str, object] = {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": port,
            "AccountingStoragePass": munge_socket,  # else sacctmgr asks the system's munge
            "AccountingStoreFlags": "job_comment",
            "AccountingStorageEnforce": "associations,limits,qos",
        }
        self._write_slurmdbd_conf(port, munge_socket)
        self.mariadbd = Daemon(folder, "mariadbd", self._mariadbd_command())
        self.slurmdbd = Daemon(
            folder, "slurmdbd", [program("slurmdbd"), "-D"], {"SLURM_CONF": str(folder / "slurm.conf")}
        )

    def start(self, command: Callable[..., str], users: set[str]) -> None:
        """Start what does not run, and make sure that `users` may submit, as members of the account `lab`.

        Args:
            command: runs a Slurm program, as `Cluster.command`; munged must run already.
            users: accounts of this machine.
        """
        self.mariadbd.start()
        if not wait_until(lambda: self._sql("SELECT 1"), 20.0):
            raise ClusterError(f"mariadbd does not answer:\n{self.mariadbd.tail()}")
        if not self._sql("SELECT 1 FROM mysql.proc"):
            tables = f"CREATE DATABASE IF NOT EXISTS mysql; USE mysql;\n{SYSTEM_TABLES.read_text()}"
            if not self._sql(tables):
                raise ClusterError(f"mariadbd refuses its system tables:\n{self.mariadbd.tail()}")
        self.slurmdbd.start()
        known = self._clusters(command)
        if "test" in known:
            return
        members = [f"User - '{user}':DefaultAccount='lab'" for user in sorted(users)]
        text = ["Cluster - 'test'", "Parent - 'root'", "Account - 'lab'", "Parent - 'lab'", *members, ""]
        (self._folder / "associations").write_text("\n".join(text))
        command("sacctmgr", "--immediate", "load", f"file={self._folder}/associations")

    def _clusters(self, command: Callable[..., str]) -> list[str]:
        deadline = time.monotonic() + 20.0
        while True:
            try:
                return command("sacctmgr", "--noheader", "--parsable2", "list", "cluster", "format=cluster").split()
            except ClusterError as error:
                if time.monotonic() > deadline:
                    raise ClusterError(f"{error}\n{self.slurmdbd.tail()}") from error
                time.sleep(0.1)

    def _sql(self, text: str) -> bool:
        command = ["mariadb", "--no-defaults", f"--socket={self._socket}"]
        return subprocess.run(command, check=False, capture_output=True, text=True, input=text).returncode == 0

    def _mariadbd_command(self) -> list[str]:
        data = self._folder / "mariadb"
        data.mkdir(exist_ok=True)
        return [
            program("mariadbd"),
            "--no-defaults",
            "--user=root",
            f"--datadir={data}",
            f"--socket={self._socket}",
            f"--pid-file={self._folder}/mariadbd.own",
            "--bind-address=127.0.0.1",
            f"--port={self._database_port}",
            "--skip-grant-tables",
            # Small and quick: it holds a test's jobs and may lose them when the machine stops.
            "--innodb-buffer-pool-size=16M",
            "--innodb-log-file-size=8M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--debug-no-sync",
        ]

    def _write_slurmdbd_conf(self, port: int, munge_socket: Path) -> None:
        settings = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={munge_socket}",
            "CommunicationParameters": "NoInAddrAny",
            "DbdHost": "localhost",
            "DbdAddr": "127.0.0.1",
            "DbdPort": port,
            "SlurmUser": "root",
            "PidFile": f"{self._folder}/slurmdbd.own",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "127.0.0.1",
            "StoragePort": self._database_port,
            "StorageUser": "root",
            "StorageLoc": "slurm",
        }
        file = self._folder / "slurmdbd.conf"
        file.touch(mode=0o600)  # slurmdbd insists
        file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
