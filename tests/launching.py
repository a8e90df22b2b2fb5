"""What the tests of launching need: Prefect's server with a login, and servers that behave badly."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows import launch
from flows.process_session import process_session
from tests.prefect_server import PrefectServer

LOGIN = "lab:s3cret: w0rd"
SESSION = "2025-08-26-18-30-15-123456"
_numbers = itertools.count()

SCHEMA = {
    "type": "object",
    "properties": {
        **{name: {"type": "string"} for name in ("project", "animal", "requested_by")},
        "session": process_session.parameters.properties["session"],
        "reprocess": {"type": "boolean"},
    },
    "required": ["project", "animal", "session"],
}


class Lab(PrefectServer):
    """A Prefect server that asks for a login."""

    @property
    def environment(self) -> dict[str, str]:
        login = {"PREFECT_SERVER_API_AUTH_STRING": LOGIN, "PREFECT_API_AUTH_STRING": LOGIN}
        return {**super().environment, **login}

    def ask(self, method: str, path: str, body: Any = None, kind: type = dict) -> Any:
        return launch.Server(launch.Address(self.api, LOGIN), 30).ask(method, path, body, kind)

    def deployment(self, name: str, **parameters: Any) -> str:
        """Make a deployment, called as its flow; return its id."""
        flow = self.ask("POST", "/flows/", {"name": name})
        body = {
            "name": name,
            "flow_id": flow["id"],
            "parameters": parameters,
            "tags": ["sessionflow"],
            "parameter_openapi_schema": SCHEMA,
            "enforce_parameter_schema": True,
        }
        return str(self.ask("POST", "/deployments/", body)["id"])

    def by_hand(self, deployment_id: str, session: str, **more: Any) -> str:
        """Start a run as Prefect's page does; return its id."""
        body = {"parameters": {"project": "Project", "animal": "305", "session": session}, **more}
        return str(self.ask("POST", f"/deployments/{deployment_id}/create_flow_run", body)["id"])

    def set_state(self, run_id: str, kind: str, message: str = "") -> None:
        state = {"type": kind, "name": kind.title(), "message": message}
        self.ask("POST", f"/flow_runs/{run_id}/set_state", {"state": state, "force": True})

    def label(self, run_id: str, name: str, value: str) -> None:
        self.patch(f"flow_runs/{run_id}/labels", {name: value})

    def patch(self, path: str, body: dict[str, Any]) -> None:
        login = b64encode(LOGIN.encode()).decode()
        request = urllib.request.Request(
            f"{self.api}/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Basic {login}"},
            method="PATCH",
        )
        urllib.request.urlopen(request, timeout=30).close()

    def of_session(self, session: str) -> list[dict[str, Any]]:
        """Return all runs on a session."""
        runs = self.ask("POST", "/flow_runs/filter", {"limit": 200}, list)
        return [run for run in runs if run["parameters"].get("session") == session]


@contextlib.contextmanager
def running_lab(home: Path) -> Iterator[Lab]:
    """Start a server that has the deployment process-session, until the block ends."""
    with Lab(home) as server:
        server.deployment("process-session")
        yield server


def a_session() -> str:
    """Return the name of a session that no other test has."""
    return f"2025-08-26-18-30-15-{next(_numbers):06}"


@contextlib.contextmanager
def listening(
    behave: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[str]:
    """Serve every connection with `behave`, each in a thread; give the address."""
    listener = socket.create_server(("127.0.0.1", port))

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            behave(tls.wrap_socket(connection, server_side=True) if tls else connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}/api"
        listener.shutdown(socket.SHUT_RDWR)


def answering(text: bytes, pause: float = 0.0) -> Callable[[socket.socket], None]:
    """Return what answers every request with these bytes, one by one where there is a pause, and stays."""

    def behave(connection: socket.socket) -> None:
        while connection.recv(65536):
            for piece in [text[i : i + 1] for i in range(len(text))] if pause else [text]:
                connection.sendall(piece)
                time.sleep(pause)

    return behave


def http(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length or len(body)}\r\n\r\n"
    return head.encode() + body


def passing_on(port: int, lost: bytes = b"", seen: list[bytes] | None = None) -> Callable[[socket.socket], None]:
    """Return what passes everything on to a port here; of a request that has `lost` in it the answer is lost."""

    def behave(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as there:
            asked: list[bytes] = []

            def back() -> None:
                with contextlib.suppress(OSError):
                    while piece := there.recv(65536):
                        if lost and any(lost in each for each in asked):
                            connection.shutdown(socket.SHUT_RDWR)
                            return
                        connection.sendall(piece)

            threading.Thread(target=back, daemon=True).start()
            while piece := connection.recv(65536):
                asked.append(piece)
                if seen is not None:
                    seen.append(piece)
                there.sendall(piece)

    return behave


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Make an authority of its own for 127.0.0.1; return the server's side and the certificate's file."""
    pem, key = folder / "ca.pem", folder / "ca.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(pem)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    return context, pem
