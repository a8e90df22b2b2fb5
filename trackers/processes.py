"""Which process is meant: a pid alone is reused; with boot id and start time it is not."""

from __future__ import annotations

import functools
import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessIdentity:
    """A process of one boot of one host.

    Attributes:
        boot_id: of the kernel that runs it; empty where the platform has none (then nobody can tell whether it lives).
        start_time: in clock ticks after boot (proc(5), /proc/PID/stat, field 22).
    """

    host: str
    boot_id: str
    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Identify a process of this host.

        Raises:
            ProcessLookupError: there is no such process.
        """
        return cls(socket.gethostname(), boot_id(), pid, _start_time(pid))

    @classmethod
    def of_this_process(cls) -> ProcessIdentity:
        """Identify the process that calls."""
        try:
            return cls.of(os.getpid())
        except ProcessLookupError:  # no /proc, as on Windows and macOS
            return cls(socket.gethostname(), "", os.getpid(), 0)

    def gone(self) -> bool | None:
        """Tell whether the process has ended; None where that cannot be known from here."""
        if not self.boot_id or self.host != socket.gethostname() or not boot_id():
            return None
        if self.boot_id != boot_id():
            return True
        try:
            return _start_time(self.pid) != self.start_time
        except ProcessLookupError:
            return True


@functools.cache
def this_account() -> str:
    """Return the name of the account that this process runs under; its number where it has no name.

    The system is asked, and not LOGNAME, which a change of account may leave as it was.
    """
    try:
        import pwd
    except ImportError:  # Windows
        return getpass.getuser()
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # no entry in passwd, as in containers, or while a directory service is away
        return str(os.geteuid())


@functools.cache
def boot_id() -> str:
    """Return this boot's random id, or an empty string where there is none (random(4))."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_time(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(pid) from error
    state, *rest = stat[stat.rindex(")") + 2 :].split()
    if state in "ZX":  # a zombie holds nothing any more
        raise ProcessLookupError(pid)
    return int(rest[18])
