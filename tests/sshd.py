"""A real OpenSSH server on loopback, with keys, certificates and one-time passwords of its own."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

from tests.daemon import (
    MARK,
    ClusterError,
    Daemon,
    UnavailableError,
    belonging,
    end_everything,
    free_port,
    program,
    require,
    send,
    temporary_folder,
    wait_until,
)

CHECK_PASSWORD = """#!/bin/sh
# pam_exec gives the password on standard input, ended by a zero byte; a right one is used up.
cd {folder} || exit 1
password=$(tr -d '\\000')
exec 9>lock
flock 9
grep -qxF -e "$PAM_USER $password" passwords || exit 1
grep -vxF -e "$PAM_USER $password" passwords >rest
mv rest passwords
"""
PAM = """auth required pam_exec.so expose_authtok quiet {folder}/check
auth required pam_permit.so
account required pam_permit.so
session required pam_permit.so
"""


class Sshd:
    """An sshd that root runs on a free port of 127.0.0.1; it touches nothing outside its folder.

    Attributes:
        host, port, account, key_file, known_hosts_file: what a client needs.
        log: the server's log.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        folder: Path | None = None,
        *,
        account: str = "root",
        authentication: str = "publickey",
        environment: dict[str, str] | None = None,
        sshd_config: dict[str, object] | None = None,
    ) -> None:
        """Write keys and configuration.

        Args:
            folder: where everything is; it may belong to a cluster. None: a new temporary one.
            account: who logs in: root, or another account of this machine, also one that has no shell.
            authentication: as in AuthenticationMethods: "publickey", "keyboard-interactive", "password", or several
                with commas between them. Passwords are those of `one_time_password`.
            environment: what every login finds in its environment.
            sshd_config: further lines, like {"MaxSessions": 2}.
        """
        require("sshd", "ssh-keygen")
        self.account = account
        self.port = free_port()
        self._temporary = folder is None
        self._folder = folder or temporary_folder()
        self._files = self._folder / "ssh"
        self._files.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o755)  # sshd reads authorized keys as the account
        self._authentication = authentication
        self._environment = {**(environment or {}), MARK: str(self._folder)}
        self._lines = sshd_config or {}
        for name in ("host_key", "user_ca", "id"):
            make_key(self._files / name)
        self.key_file = self._files / "id"
        self.known_hosts_file = self._files / "known_hosts"
        self.known_hosts_file.write_text(self.known_hosts)
        self.authorize(self.key_file)
        (self._files / "ssh_config").write_text(self.ssh_config)
        self.daemon = Daemon(self._folder, "sshd", self._command())
        self.log = self.daemon.log

    @property
    def known_hosts(self) -> str:
        """The line of known_hosts that fits the server's present key."""
        return f"[{self.host}]:{self.port} {self._public('host_key')}\n"

    @property
    def ssh_config(self) -> str:
        """The text of a client's configuration, in which the server is called `cluster`."""
        return f"""Host cluster
  HostName {self.host}
  Port {self.port}
  User {self.account}
  IdentityFile {self.key_file}
  IdentitiesOnly yes
  UserKnownHostsFile {self.known_hosts_file}
  GlobalKnownHostsFile /dev/null
"""

    @property
    def ssh(self) -> list[str]:
        """The start of a command line that logs in; a command may follow."""
        return ["ssh", "-F", str(self._files / "ssh_config"), "cluster"]

    def start(self) -> None:
        """Start it and wait until it listens, on the same port each time."""
        if self.daemon.process:
            return
        before = self._count("Server listening")
        self.daemon.start()
        if not wait_until(lambda: self._count("Server listening") > before, 10.0):
            raise ClusterError(f"sshd does not listen:\n{self.daemon.tail()}")

    def __enter__(self) -> Sshd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        end_everything(self._folder, remove=self._temporary)

    def stop(self) -> None:
        """End the server with TERM, as ssh.service does: connections that stand stay."""
        self.daemon.stop()

    def kill(self) -> None:
        """End the server and all its connections with kill -9."""
        pids = self._connections()  # later they are nobody's children
        self.daemon.kill()
        for pid in pids | self._connections():
            send(pid, signal.SIGKILL)

    def restart(self) -> None:
        """End server and connections, and start it again."""
        self.kill()
        self.start()

    def drop_connections(self) -> int:
        """Cut every connection, logged in or not; return how many processes of the server that took.

        What the connections had started goes on, with its standard input ended.
        """
        pids = self._connections()
        for pid in pids:
            send(pid, signal.SIGKILL)
        return len(pids)

    def authorize(self, key_file: Path) -> None:
        """Let one more key in."""
        with (self._files / "authorized_keys").open("a") as file:
            file.write(key_file.with_name(f"{key_file.name}.pub").read_text())

    def change_host_key(self) -> None:
        """Restart with another host key; `known_hosts_file` keeps the old one."""
        for file in self._files.glob("host_key*"):
            file.unlink()
        make_key(self._files / "host_key")
        self.restart()

    def certificate(self, seconds: int, name: str = "certified") -> Path:
        """Return a new key that is let in by its certificate alone, which lies beside it, for `seconds`."""
        key = make_key(self._files / name)
        signing = ["-s", str(self._files / "user_ca"), "-I", name, "-n", self.account, "-V", f"-1m:+{seconds}s"]
        _run("ssh-keygen", "-q", *signing, f"{key}.pub")
        return key

    def one_time_password(self) -> str:
        """Return a new password of the account, good for one login."""
        password = secrets.token_hex(8)
        with (self._files / "passwords").open("a") as file:
            file.write(f"{self.account} {password}\n")
        return password

    @property
    def logins(self) -> int:
        """How many times somebody logged in."""
        return self._count(r"^Accepted [\w/-]+ for ")

    @property
    def channels(self) -> int:
        """How many commands, shells and subsystems were started."""
        return self._count("Starting session:")

    def _connections(self) -> set[int]:
        daemon = self.daemon.process
        pids = {pid for pid in belonging(self._folder) if _name(pid) == "sshd"}
        return pids - {daemon.pid if daemon else 0}

    def _count(self, pattern: str) -> int:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return len(re.findall(pattern, text, re.MULTILINE))

    def _public(self, name: str) -> str:
        return " ".join((self._files / f"{name}.pub").read_text().split()[:2])

    def _command(self) -> list[str]:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # compiled in; where sshd locks itself up
        (self._files / "sshd_config").write_text(self._configuration())
        server = [program("sshd"), "-D", "-e", "-f", str(self._files / "sshd_config")]
        mounts = self._own_pam() if self._needs_pam else {}
        if self.account != "root":
            mounts |= self._own_passwd()
        if not mounts:
            return server
        if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
            raise UnavailableError("A mount namespace of its own (unshare --mount) is not allowed here.")
        binds = [shlex.join(["mount", "--bind", str(source), target]) for source, target in mounts.items()]
        script = " && ".join([*binds, shlex.join(["exec", *server])])
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]

    @property
    def _needs_pam(self) -> bool:
        return "keyboard-interactive" in self._authentication or "password" in self._authentication

    def _own_pam(self) -> dict[Path, str]:
        """Return what is mounted where, so that our file checks passwords and the machine's PAM stays as it is."""
        folder = self._files / "pam.d"
        shutil.copytree("/etc/pam.d", folder, dirs_exist_ok=True)
        (folder / "sshd").write_text(PAM.format(folder=self._files))
        check = self._files / "check"
        check.write_text(CHECK_PASSWORD.format(folder=shlex.quote(str(self._files))))
        check.chmod(0o755)
        return {folder: "/etc/pam.d"}

    def _own_passwd(self) -> dict[Path, str]:
        """Return what is mounted where, so that the account has a shell and a home."""
        entry = pwd.getpwnam(self.account)
        home = self._folder / f"home-{self.account}"
        home.mkdir(exist_ok=True)
        os.chown(home, entry.pw_uid, entry.pw_gid)
        mine = f"{self.account}:x:{entry.pw_uid}:{entry.pw_gid}::{home}:/bin/bash"
        lines = Path("/etc/passwd").read_text().splitlines()
        file = self._files / "passwd"
        file.write_text("".join(f"{mine if line.startswith(f'{self.account}:') else line}\n" for line in lines))
        return {file: "/etc/passwd"}

    def _configuration(self) -> str:
        methods = self._authentication
        lines = {
            "Port": self.port,
            "ListenAddress": self.host,
            "HostKey": self._files / "host_key",
            "AuthorizedKeysFile": self._files / "authorized_keys",
            "TrustedUserCAKeys": self._files / "user_ca.pub",
            "AuthenticationMethods": methods,
            "KbdInteractiveAuthentication": "yes" if "keyboard-interactive" in methods else "no",
            "PasswordAuthentication": "yes" if "password" in methods else "no",
            "PermitRootLogin": "yes",
            "UsePAM": "yes" if self._needs_pam else "no",
            "StrictModes": "no",
            "PidFile": "none",
            "PrintMotd": "no",
            "PrintLastLog": "no",
            "LogLevel": "VERBOSE",  # says which sessions are started
            "Subsystem": "sftp internal-sftp",
            "SetEnv": " ".join(f'"{name}={value}"' for name, value in self._environment.items()),
            **self._lines,
        }
        return "".join(f"{key} {value}\n" for key, value in lines.items())


def make_key(file: Path) -> Path:
    """Make a key pair without a passphrase, unless it is there; return the private key's path."""
    if not file.exists():
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", file.name, "-f", str(file))
    return file


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"{shlex.join(command)}: {done.stderr}")


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
