"""`sessionflow up`: a Prefect server, what it needs to know, and a worker; watched, and ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock, Timeout
from prefect.client.orchestration import PrefectClient, get_client
from prefect.settings import temporary_settings

from flows import up_runs, up_steps
from flows.morning import NOTIFY_VARIABLE
from flows.up_parts import Part
from flows.up_settings import POOL, UNTOLD, UpSettings
from tasks.compute_server import STORAGE_VARIABLE
from trackers.errors import AlreadyRunningError, BadInputError, PrefectError, SessionflowError
from trackers.processes import this_account

READY_SECONDS = 180.0  # for the server's first answer: a first start makes the database, on a busy computer too
WORKER_SECONDS, SERVER_SECONDS = 20.0, 30.0  # to end when told to, before they are killed
_PAUSED = "paused-by-up"


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Be the only one that runs in a folder, for as long as the block lasts.

    Raises:
        AlreadyRunningError: somebody else is; says who, and since when.
    """
    about = folder / "up.json"
    lock = FileLock(folder / "up.lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise AlreadyRunningError(
            f"sessionflow is up already: {_who(about)}. Nothing was started. "
            "End that one first, with Ctrl-C or SIGTERM."
        ) from None
    try:
        mine = {"user": this_account(), "host": socket.gethostname(), "pid": os.getpid()}
        about.touch(mode=0o600)
        about.write_text(json.dumps({**mine, "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"}))
        yield
    finally:
        about.unlink(missing_ok=True)
        lock.release()


def deployments_file(given: Path | None) -> Path:
    """Return the `prefect.yaml` to deploy: as given, of the clone that is installed, or as it was installed.

    Raises:
        BadInputError: there is none.
    """
    name = "prefect.yaml"
    installed = Path(sys.prefix) / "share" / "sessionflow" / name
    for path in [given] if given else [Path(__file__).parents[1] / name, installed]:
        if path.is_file():
            return path.absolute()
    raise BadInputError(f"There is no {given or name} to deploy. Nothing was started. Name it: --deployments FILE")


def check_port(settings: UpSettings) -> None:
    """Refuse a port that another program has.

    Raises:
        BadInputError: it has it, or there is no such address here.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise BadInputError(
            f"The server cannot have port {settings.port} of {settings.host}: {error.strerror}. Nothing was started. "
            f"`ss -ltnp 'sport = :{settings.port}'` names the program that has it; another port: "
            "export PREFECT_SERVER_API_PORT=4300"
        ) from None


class Up:
    """All parts, from their start to their end."""

    def __init__(self, settings: UpSettings, deployments: Path) -> None:
        self._settings = settings
        self._deployments = deployments
        self._worker_name = f"{this_account()}@{socket.gethostname()}"
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self._began = time.monotonic()
        folder, worker = settings.folder, settings.worker_environment()
        self._server = Part(
            "server",
            _server_command(settings),
            settings.environment(),
            folder / "server.log",
            dies_by="TERM",
            say=say,
            umask=0o077,  # the database is for this account alone; the worker's files are a group's
        )
        # whatever ends the worker, its flows are not in its hands: see `flows.up_runs`
        words = ("worker", "start", "--pool", POOL, "--type", "process", "--name", self._worker_name)
        command = (sys.executable, "-m", "prefect", *words, "--no-create-pool-if-not-found")
        self._worker = Part(
            "worker", command, worker, folder / "worker.log", dies_by="KILL", say=say, before_again=self._after_worker
        )
        watch = (sys.executable, "-P", "-m", "flows.watch", str(folder / "told.json"))
        self._watch = Part("watch", watch, worker, folder / "watch.log", dies_by="KILL", say=say)

    async def run(self) -> int:
        """Start everything, stay until told to stop, and end everything; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        check_port(self._settings)
        names = self._settings.client()
        try:
            with temporary_settings({_setting(name): value for name, value in names.items()}):
                if await self._until_stopped(self._start()):
                    await self._stop.wait()
                await self._end()
        finally:  # whatever went wrong, nothing stays behind
            await self._watch.end(signal.SIGKILL, WORKER_SECONDS)
            await self._worker.end(signal.SIGKILL, WORKER_SECONDS)
            await self._server.end(signal.SIGTERM, SERVER_SECONDS)
        say("stopped")
        return 0

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do something, unless told to stop meanwhile; return whether it was done."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            task.result()
            return True
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return False

    async def _start(self) -> None:
        settings = self._settings
        for path in settings.home.glob("prefect.db*"):  # of an earlier server, which leaves it readable for all
            path.chmod(0o600)
        await self._server.start()
        async with get_client() as client:
            await self._answers(client)
            self._server.keep()
            say(f"server: answers at {settings.api}; database: {_database(settings)}")
            await self._set_up(client)
        await self._worker.start()
        self._worker.keep()
        say(f"worker: {self._worker_name}; its log: {self._worker.log}")
        await self._watch.start()
        self._watch.keep()
        told = os.environ.get(NOTIFY_VARIABLE) or f"nobody; {NOTIFY_VARIABLE} names blocks"
        say(f"watch: arrivals once a minute; failures are told to {told}; its log: {self._watch.log}")
        self._welcome()

    async def _answers(self, client: PrefectClient) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while (problem := await client.api_healthcheck()) is not None:
            if self._server.pid is None or time.monotonic() > deadline:
                raise PrefectError(
                    f"Prefect's server did not start ({problem}). Its last words, in {self._server.log}:\n"
                    f"{self._server.last_words()}"
                )
            await asyncio.sleep(0.2)
        try:
            await client.hello()
            await client.read_work_pools(limit=1)
        except httpx.HTTPError as error:
            raise PrefectError(
                f"Another server answers at {self._settings.api}: {error}. Nothing was changed there. "
                "Unset PREFECT_API_URL."
            ) from error

    async def _set_up(self, client: PrefectClient) -> None:
        """Take every step, a line each; each may have been taken before."""
        settings = self._settings
        await self._go_on(client)
        paused = settings.folder / _PAUSED
        say(await up_steps.work_pool(client, resume=paused.exists()))
        paused.unlink(missing_ok=True)
        wanted = dict(zip(up_steps.LIMITS, (settings.storage_limit, settings.working_limit), strict=True))
        say(await up_steps.limits(client, wanted))
        say(await up_steps.zombies(client))
        before = await up_steps.kept_deployments(client)
        await self._deploy()
        say(await up_steps.restore(client, before))
        await up_steps.exact_parameters(client)
        line, blocks = await up_steps.servers(client)
        say(line)
        here = bool(os.environ.get(STORAGE_VARIABLE))
        say(await up_steps.usual_server(client, blocks, here=here))
        say(await up_steps.sweeps(client, blocks, here=here))

    async def _after_worker(self) -> None:
        """Have runs go on that died with their worker; nobody else tells Prefect that they are gone."""
        try:
            async with asyncio.timeout(READY_SECONDS), get_client() as client:
                while await client.api_healthcheck() is not None:  # noqa: ASYNC110 - the server may have died as well
                    await asyncio.sleep(1)
                await self._go_on(client)
        except (httpx.HTTPError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            say(f"runs: the server could not be asked ({why}); what was cut off is Crashed after 10 minutes")

    async def _go_on(self, client: PrefectClient) -> None:
        """Put back the runs whose worker and process are both gone; the next worker goes on with them."""
        dead, alive = await up_runs.orphans(client, self._worker_name)
        if dead:
            await up_runs.put_back(client, dead, "Its worker and its process were killed.")
            say(f"runs: {len(dead)} were cut off; they go on where they were")
        if alive:
            say(f"runs: {alive} live on without their worker, and end by themselves")

    async def _deploy(self) -> None:
        """Deploy every flow by Prefect's own command, from a folder in which it finds nothing else to read."""
        command = (sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file")
        with tempfile.TemporaryDirectory() as folder:
            process = await asyncio.create_subprocess_exec(
                *(*command, str(self._deployments)),
                env=self._settings.worker_environment(),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                out, _ = await process.communicate()
            except asyncio.CancelledError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                raise
        if process.returncode:
            raise PrefectError(f"{self._deployments} could not be deployed:\n{out.decode(errors='replace')[-2000:]}")

    def _welcome(self) -> None:
        settings = self._settings
        kept = settings.folder / "login"
        url = settings.api.removesuffix("/api")
        if settings.fresh:
            say(f"login: {settings.login} (shown this once; kept in {kept})")
            (settings.folder / UNTOLD).unlink(missing_ok=True)
        if not settings.tls and not settings.host.startswith(("127.", "localhost", "::1")):
            say("open: whoever hears the login on the network can run commands as this account, on the cluster too")
        given = {name: shlex.quote(value) for name, value in settings.client().items()}
        ours = kept.exists() and kept.read_text().strip() == settings.login
        given["PREFECT_API_AUTH_STRING"] = f'"$(cat {shlex.quote(str(kept))})"' if ours else "YOUR_OWN_LOGIN"
        where = f"export {' '.join(f'{name}={value}' for name, value in given.items())}"
        say(f"up after {time.monotonic() - self._began:.0f} s: {url}; for commands: {where}; stop with Ctrl-C")

    async def _end(self) -> None:
        """End in order: no new runs, time for those that run, the worker, what is left of them, the server last."""
        await self._watch.end(signal.SIGKILL, WORKER_SECONDS)
        try:
            async with get_client() as client:
                await asyncio.wait_for(self._drain(client), self._settings.drain_seconds + 60)
        except (httpx.HTTPError, TimeoutError, SessionflowError) as error:
            say(f"runs: the server could not be asked ({type(error).__name__}); what runs is found at the next start")
            await self._worker.end(signal.SIGKILL, WORKER_SECONDS)
        say("server: ending")

    async def _drain(self, client: PrefectClient) -> None:
        if self._server.pid is None or self._worker.pid is None:
            return
        if await up_steps.pause_pool(client):
            (self._settings.folder / _PAUSED).touch()
        seconds = self._settings.drain_seconds
        say(f"work pool {POOL}: paused; what runs gets {seconds:g} s to end; press Ctrl-C again not to wait")
        left = await up_runs.drained(client, self._worker_name, seconds, hurry=self._hurry)
        if not left:
            say("worker: nothing runs; ending")
            await self._worker.end(signal.SIGINT, WORKER_SECONDS)
            return
        await self._worker.end(signal.SIGKILL, WORKER_SECONDS)  # else it would report the flows below as crashed
        await up_runs.put_back(client, left, "sessionflow was stopped.")
        names = ", ".join(run.name for run in left)
        say(f"runs: {len(left)} did not end in time and go on at the next start; their jobs run on: {names}")

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            self._hurry.set()
        else:
            say(f"stopping ({signal.Signals(number).name})")
            self._stop.set()


def say(line: str) -> None:
    """Print one line with its time."""
    print(f"{datetime.now():%H:%M:%S} {line}", flush=True)  # noqa: DTZ005 - for people here


def _server_command(settings: UpSettings) -> tuple[str, ...]:
    address = ("--host", settings.host, "--port", str(settings.port))
    if settings.tls is None:
        return (sys.executable, "-m", "prefect", "server", "start", *address)
    # `prefect server start` has no TLS; it is a program of uvicorn's, which has
    files = ("--ssl-certfile", str(settings.tls.certificate), "--ssl-keyfile", str(settings.tls.key))
    application = ("--factory", "prefect.server.api.server:create_app")
    return ("env", "PREFECT__SERVER_FINAL=1", sys.executable, "-m", "uvicorn", *application, *address, *files)


def _database(settings: UpSettings) -> str:
    from sqlalchemy.engine import make_url

    return make_url(settings.database).render_as_string(hide_password=True)


def _setting(name: str) -> Any:
    import prefect.settings

    return getattr(prefect.settings, name)


def _who(about: Path) -> str:
    try:
        found = json.loads(about.read_text())
        return f"{found['user']} on {found['host']}, process {found['pid']}, since {found['since']}"
    except (OSError, ValueError, KeyError):
        return f"its lock {about.with_suffix('.lock')} is held"
