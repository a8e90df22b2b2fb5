"""The manager's side imports where the POSIX-only modules are missing, as on Windows."""

import subprocess
import sys

POSIX_ONLY = ("fcntl", "pwd", "grp", "termios", "resource", "syslog", "posix_ipc")
MANAGER_SIDE = (
    "flows.process_session",
    "flows.checksum",
    "flows.manifest",
    "flows.cli",
    "flows.cli_control",
    "flows.cli_run",
    "flows.cli_server",
    "tasks.server_install",
    "tasks.login",
    "tasks.ssh",
    "tasks.ssh_dial",
    "tasks.ssh_direct",
    "flows.cli_sweep",
    "flows.cli_launch",
    "flows.launch",
    "flows.sweep",
    "flows.process_project",
    "flows.cli_project",
)


def test_flows_and_tasks_import_without_posix_modules() -> None:
    program = (
        "import sys\n"
        f"for name in {POSIX_ONLY!r}: sys.modules[name] = None\n"
        f"for name in {MANAGER_SIDE!r}: __import__(name)\n"
        "print([name for name in sys.modules if name.startswith('jobs')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"
