"""The unit of systemd that keeps `sessionflow up` running."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flows.up import deployments_file
from flows.up_settings import handed_on
from trackers.errors import FileSystemError

UNIT = """\
# Written by `sessionflow up --systemd`. For one account without root: this folder is ~/.config/systemd/user, and
#   loginctl enable-linger && systemctl --user daemon-reload && systemctl --user enable --now sessionflow
[Unit]
Description=sessionflow: Prefect's server and a worker
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
ExecStart={command}
# Secrets, e.g. PREFECT_SERVER_DATABASE_CONNECTION_URL: one NAME=value a line, in a file of mode 0600.
EnvironmentFile=-%h/.config/sessionflow/secrets
{environment}
# On stop only `up` is told: it lets no new run start, gives those that run {drain:g} s, and ends the server last.
KillMode=mixed
KillSignal=SIGTERM
TimeoutStopSec={stop:.0f}
Restart=always
RestartSec=10
# 2: something is set wrongly; 3: it is up already
RestartPreventExitStatus=2 3

[Install]
WantedBy=default.target
"""
STOP_SECONDS = 150  # beyond the drain: runs are put back, the worker and the server end


def write_units(arguments: argparse.Namespace) -> int:
    """Write the unit into a folder; print where, and what to do with it."""
    deployments_file(arguments.deployments)
    environment = [f"Environment={_quoted(f'{name}={value}')}" for name, value in handed_on().items()]
    text = UNIT.format(
        command=" ".join(_quoted(word) for word in _command(arguments)),
        environment="\n".join(environment) or "# (no settings of Prefect or sessionflow were in the environment)",
        drain=arguments.drain,
        stop=arguments.drain + STOP_SECONDS,
    )
    path = arguments.systemd / "sessionflow.service"
    try:
        arguments.systemd.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise FileSystemError(f"{path} cannot be written: {error.strerror}. Nothing was changed.") from None
    print(f"Wrote {path}; its first lines say how to start it.")
    return 0


def _command(arguments: argparse.Namespace) -> list[str]:
    words = [sys.executable, "-P", "-m", "flows.cli", "up", "--drain", f"{arguments.drain:g}"]
    words += ["--storage-limit", str(arguments.storage_limit), "--working-limit", str(arguments.working_limit)]
    given = {"--host": arguments.host, "--database": arguments.database}
    files = {"tls-certificate": arguments.tls_certificate, "tls-key": arguments.tls_key}
    given |= {f"--{name}": str(Path(path).absolute()) for name, path in files.items() if path}
    if arguments.deployments:
        given["--deployments"] = str(Path(arguments.deployments).absolute())
    for name, value in given.items():
        words += [name, value] if value else []
    return [*words, *(["--open-without-tls"] if arguments.open_without_tls else [])]


def _quoted(word: str) -> str:
    """Quote a word for systemd, to which % and $ mean something (systemd.service(5), COMMAND LINES)."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
