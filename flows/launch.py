"""Start processing from an acquisition program, and ask later what became of it.

This one file needs Python 3.8 and its standard library only: import it as `flows.launch`, or copy it to a rig, Windows
included. `launch` returns within two seconds and never raises unless asked to; what could not be sent is kept in a
folder of this account and sent by the next launch. docs/launching.md says how it is used, and from other languages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, Type, Union
from urllib.parse import quote, urlsplit

Json = Dict[str, Any]
Place = Tuple[str, str, str, str]  # api, auth, ca, rig, as `launch` takes them

ANSWER_SECONDS = 1.4  # for everything that is asked of the server; with the two below, less than 2 s in all
GIVE_UP_SECONDS = 1.5  # what hangs where no time-out reaches, as a name server does, is left behind then
RETURN_SECONDS = 1.85  # and what could not be sent has been written down by then
NOTE_SECONDS = 0.5  # of the first, that must be left to ask what keeps a run that is started from beginning
POLL_SECONDS = (2.0, 15.0)  # while waiting for the end of a run: at first, and at most
MOST_KEPT = 1000  # requests
KEPT_DAYS = 30  # an older request is not sent: nobody expects it any more
PAGE = 100  # runs, of a list; Prefect takes a tenth of a second for them
SOON_SECONDS = 60  # a run that is planned for later is no answer to somebody who asks now
CHECKSUM_LABEL = "sessionflow.checksum"  # the flows leave it on their runs: "verified …" or "not verified …", and when
TARGET = ("server", "project", "animal", "session", "animals", "sessions", "dataset")
TAGGED = ("project", "animal", "session", "dataset")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
LIVE = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")
TIME = "%Y-%m-%dT%H:%M:%SZ"
LARGEST_ANSWER = 20_000_000  # bytes


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a request, or of the run that it started. Three-valued facts are None while they are not known.

    Attributes:
        words: what happened, and what to do where something is wrong.
        run_id: of the flow run in Prefect; empty where the server has none for this request.
        url: the run's page.
        state: of the run, as Prefect's pages show it.
        ended: whether the run has come to its end, well or not.
        succeeded: whether it ended well.
        verified: whether the raw data on the server agreed with the checksum that was made at acquisition: True, then
            a local copy is one too many; False, this run ended without that.
        new: whether this call started the run; False where it was there already.
        kept: the file with the request where it could not be sent; it is sent later.
    """

    words: str
    run_id: str = ""
    url: str = ""
    state: str = ""
    ended: Optional[bool] = None
    succeeded: Optional[bool] = None
    verified: Optional[bool] = None
    new: bool = False
    kept: str = ""


class LaunchError(RuntimeError):
    """A request was not sent. `outcome` says more: whether it is kept, and why not."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.words)
        self.outcome = outcome


class UnsentError(Exception):
    """The server could not be asked; `away` where asking it something else would fail in the same way."""

    def __init__(self, words: str, away: bool = True) -> None:
        super().__init__(words)
        self.away = away


class RefusedError(Exception):
    """The server has understood and says no; asking again would not help."""


def launch(
    deployment: str,
    *,
    project: str = "",
    animal: Union[str, int] = "",
    session: str = "",
    requested_by: str = "",
    wait: float = 0,
    raise_errors: bool = False,
    api: str = "",
    auth: str = "",
    ca: str = "",
    rig: str = "",
    spool: str = "",
    **parameters: Any,
) -> Outcome:
    """Start a deployment's flow, or return the run of the same session that has not ended yet.

    Args:
        deployment: "FLOW/DEPLOYMENT"; one name stands for both.
        project: The project's name.
        animal: The animal's name or number.
        session: The session's name, its UTC time.
        requested_by: Who asks; left out: this account, and the name of the rig or computer.
        wait: Minutes to wait for the run's end; the default returns at once.
        raise_errors: Raise LaunchError where the request was not sent.
        api: The address of Prefect's API; left out: PREFECT_API_URL, else the rig's file.
        auth: The login, "USER:PASSWORD"; left out: PREFECT_API_AUTH_STRING, else the rig's file.
        ca: A file with the certificate of a private authority; left out: PREFECT_API_SSL_CERT_FILE, the rig's file.
        rig: The rig's file; left out: SESSIONFLOW_RIG, `rig.json` beside this file, or the one of this account.
        spool: The folder for requests that could not be sent; left out: one of this account.
        parameters: What else the flow takes.
    """
    place, began = (api, auth, ca, rig), time.monotonic()
    named = {"project": project, "animal": animal, "session": session}
    try:
        until = began + wait * 60
        request = {
            "version": 1,
            "deployment": _full(deployment),
            "parameters": {**{name: str(value) for name, value in named.items() if value != ""}, **parameters},
            "requested_by": requested_by,
            "by": _whoami(),
            "when": _now(),
            "api": "",
            "key": "",
        }
        json.dumps(request, default=str)
        found = _launched(request, place, Spool(spool))
        if wait:
            found = _waited(found, request, place, spool, until)
    except Exception as error:  # an acquisition program must not end because of us
        found = Outcome(f"{deployment} was not started, and is not kept: {error!r}.")
    if raise_errors and not found.run_id:
        raise LaunchError(found)
    return found


def outcome(
    run: Union[str, Outcome], *, api: str = "", auth: str = "", ca: str = "", rig: str = "", seconds: float = 2
) -> Outcome:
    """Ask how a run stands: has it ended, how, has the checksum been verified? Never raises.

    Args:
        run: its id, its link, or what `launch` returned.
        api: see `launch`, as for the other three.
        auth: the login.
        ca: a file with a certificate.
        rig: the rig's file.
        seconds: after which "not known" is the answer.
    """
    known = run if isinstance(run, Outcome) else Outcome("", str(run).rstrip("/").rpartition("/")[2])
    if not known.run_id:
        return dataclasses.replace(known, words=f"There is no run to ask about. {known.words}")
    return _asked(known, (api, auth, ca, rig), lambda server: _standing(server, known.run_id), seconds)


def latest(
    deployment: str, *, api: str = "", auth: str = "", ca: str = "", rig: str = "", seconds: float = 2, **target: Any
) -> Outcome:
    """Ask how the last run that was launched for a session stands, for a program that has kept no id. Never raises.

    Args:
        deployment: as for `launch`, as the next four.
        api: the address.
        auth: the login.
        ca: a file with a certificate.
        rig: the rig's file.
        seconds: after which "not known" is the answer.
        target: project, animal and session.
    """

    def ask(server: Server) -> Outcome:
        there = _deployment(server, _full(deployment))
        wanted = {**(there.get("parameters") or {}), **target}
        runs = _tagged_runs(server, there, wanted)
        return _standing(server, runs[0]["id"]) if runs else Outcome(f"No run was launched for {_named(target)}.")

    return _asked(Outcome(""), (api, auth, ca, rig), ask, seconds)


def flush(
    *, api: str = "", auth: str = "", ca: str = "", rig: str = "", spool: str = "", seconds: float = 60
) -> List[Outcome]:
    """Send the requests that are kept, the oldest first, and say what became of each. Never raises."""
    return [each for _, each in _flush((api, auth, ca, rig), spool, seconds)]


@dataclasses.dataclass(frozen=True)
class Address:
    """Where Prefect's API is, and how to log in there; the login goes to no other address than its own."""

    api: str
    auth: str = dataclasses.field(default="", repr=False)
    ca_file: str = ""
    ca_text: str = ""
    rig: str = ""

    @property
    def ui(self) -> str:
        """The address of Prefect's pages."""
        return self.api[:-4] if self.api.endswith("/api") else self.api

    @staticmethod
    def find(api: str = "", auth: str = "", ca: str = "", rig: str = "") -> Address:
        """Return the address from arguments, the environment, or the rig's file, in this order."""
        env = os.environ.get
        kept = _rig_file(rig)
        sources = (
            {"api": api, "auth": auth, "ca_file": ca},
            {
                "api": env("PREFECT_API_URL", ""),
                "auth": env("PREFECT_API_AUTH_STRING", ""),
                "ca_file": env("PREFECT_API_SSL_CERT_FILE", ""),
            },
            {"api": kept.get("api", ""), "auth": kept.get("auth", ""), "ca_text": kept.get("ca", "")},
        )
        known = [_normal(source["api"]) for source in sources]
        chosen = next((each for each in known if each), "")
        if not chosen:
            raise UnsentError(
                "the address of Prefect's server is not known. Give api=…, set PREFECT_API_URL, or write a file for "
                "this rig: sessionflow rig add NAME --api ADDRESS"
            )
        found: Dict[str, str] = {}
        for source, its_api in zip(sources, known):
            if its_api in ("", chosen) and not ("ca_file" in found and "ca_text" in source):
                found.update({name: text for name, text in source.items() if text and name not in found})
        return Address(**{**found, "api": chosen}, rig=kept.get("rig", ""))


class Server:
    """One connection to Prefect's API, for as long as the deadline admits."""

    def __init__(self, address: Address, seconds: float) -> None:
        self.address = address
        self.now = _now()  # by the server's clock as soon as it has answered: the rig's may be wrong
        self.status = 0  # of the last answer
        self._deadline = time.monotonic() + seconds
        self._connection: Any = None

    def ask(self, method: str, path: str, body: Any = None, kind: Type[Any] = dict) -> Any:
        """Return the server's answer, an object or a list of objects.

        Raises:
            UnsentError: it could not be asked.
            RefusedError: it says no.
        """
        api = self.address.api
        while True:
            answer = self._asked(method, path, body)
            if self.status < 300:
                if not isinstance(answer, kind) or (
                    kind is list and any(not isinstance(each, dict) for each in answer)
                ):
                    raise UnsentError(f"{api} answers what Prefect's API does not: {answer!r:.100}")
                return answer
            words = str(answer.get("detail") or answer) if isinstance(answer, dict) else f"{answer!r:.100}"
            if self.status in (400, 404, 409, 422) and isinstance(answer, dict):
                raise RefusedError(re.sub(r"'\(\?#([^)]*)\)\^.*'", r"\1", words))  # of a pattern, what is for people
            if self.status in (401, 403):
                raise UnsentError(f"{api} refuses the login; check auth=, PREFECT_API_AUTH_STRING or the rig's file")
            if self.status not in (429, 500, 502, 503) or self.left < 0.3:
                raise UnsentError(f"{api} answers {self.status}: {words}", away=self.status != 500)
            time.sleep(0.2)  # its database is busy; what starts a run bears a key, so it can be asked twice

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()

    def cut(self) -> None:
        """End whatever is under way."""
        with contextlib.suppress(Exception):
            import socket

            self._connection.sock.shutdown(socket.SHUT_RDWR)

    def _asked(self, method: str, path: str, body: Any) -> Any:
        import http.client  # only now, and in a thread: an acquisition program imports this file at its start
        import socket
        import ssl

        api = self.address.api
        try:
            return self._exchange(method, path, None if body is None else json.dumps(body, default=str).encode())
        except socket.gaierror as error:
            raise UnsentError(f"the name in {api} leads nowhere: {error.strerror or error}") from error
        except ssl.SSLCertVerificationError as error:
            raise UnsentError(
                f"the certificate of {api} is not trusted: {error.verify_message}. Where the lab has an authority of "
                "its own, give its certificate as ca=FILE, or in the rig's file"
            ) from error
        except ssl.SSLError as error:
            raise UnsentError(f"{api} does not speak TLS as it should: {error}; http or https?") from error
        except (socket.timeout, TimeoutError) as error:
            raise UnsentError(f"{api} does not answer in time") from error
        except ConnectionError as error:
            if self.status:  # it may close a connection between two questions
                self.status, self._connection = 0, None
                return self._asked(method, path, body)
            raise UnsentError(f"{api} cannot be reached: {error}") from error
        except http.client.HTTPException as error:
            raise UnsentError(f"{api} answers what Prefect's API does not: {error!r:.100}") from error
        except (OSError, ValueError) as error:
            raise UnsentError(f"{api} cannot be reached: {error}") from error

    def _exchange(self, method: str, path: str, body: Optional[bytes]) -> Any:
        from base64 import b64encode
        from email.utils import parsedate_to_datetime

        parts = urlsplit(self.address.api)
        connection = self._connection = self._connection or self._new(parts.scheme, parts.hostname, parts.port)
        connection.timeout = max(0.05, self.left)
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if not self.address.auth.isascii():
            raise ValueError("the login has letters beyond ASCII, which Prefect's server cannot compare")
        if self.address.auth:
            headers["Authorization"] = f"Basic {b64encode(self.address.auth.encode()).decode()}"
        connection.request(method, parts.path + path, body, headers)
        response = connection.getresponse()
        text = response.read(LARGEST_ANSWER)
        self.status = response.status
        with contextlib.suppress(Exception):
            self.now = parsedate_to_datetime(response.headers["Date"]).strftime(TIME)
        try:
            return json.loads(text)
        except ValueError:
            if self.status < 300:
                raise ValueError(f"{text[:60]!r} is no answer of Prefect's; does the address end in /api?") from None
            return text.decode(errors="replace")

    def _new(self, scheme: str, host: Optional[str], port: Optional[int]) -> Any:
        import http.client
        import ssl

        if scheme not in ("http", "https") or not host:
            raise ValueError("that is no address; it begins with http:// or https://")
        if scheme == "http":
            return http.client.HTTPConnection(host, port)
        try:
            context = ssl.create_default_context(
                cafile=self.address.ca_file or None, cadata=self.address.ca_text or None
            )
        except OSError as error:
            raise ValueError(f"the certificate {self.address.ca_file or 'in the rig file'} is none: {error}") from error
        return http.client.HTTPSConnection(host, port, context=context)


class Spool:
    """The requests of this account that could not be sent: a file each, named by its time."""

    def __init__(self, folder: str = "") -> None:
        self._given = folder

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return Path(self._given or os.environ.get("SESSIONFLOW_SPOOL") or _own_folder("state") / "launch")

    def keep(self, request: Json) -> Path:
        """Write a request down; the same one, where it is kept already and surely was not sent, is enough."""
        digest = hashlib.sha256(_canonical({**request, "when": "", "key": ""}).encode()).hexdigest()[:12]
        waiting = self.waiting()
        for path in waiting:
            if path.stem.endswith(digest) and not request["key"] and not self.read(path).get("key", "?"):
                return path
        if len(waiting) >= MOST_KEPT:
            raise OSError(f"{self.folder} holds {len(waiting)} requests already")
        stamp = request["when"].replace(":", "").replace("-", "")
        path = self.folder / f"{stamp}-{os.urandom(2).hex()}-{digest}.json"
        self.write(path, request)
        return path

    def waiting(self) -> List[Path]:
        """Return the files of the requests, the oldest first."""
        with contextlib.suppress(OSError):
            return sorted(path for path in self.folder.iterdir() if path.suffix == ".json")
        return []

    def read(self, path: Path) -> Json:
        """Return a request; an empty one where the file holds none."""
        with contextlib.suppress(OSError, ValueError):
            request = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(request, dict) and isinstance(request.get("parameters"), dict) and request.get("deployment"):
                return {"when": "", "api": "", "key": "", "requested_by": "", "by": "", **request}
        return {}

    def write(self, path: Path, request: Json) -> None:
        """Write a file whole, for this account alone."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, json.dumps(request, indent=1, default=str))

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether this process is the one that sends what is kept; the system ends that when the process dies."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / "sending.lock").open("a+b") as file:
            try:
                if sys.platform == "win32":
                    import msvcrt

                    file.seek(0)
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                else:
                    import fcntl

                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True


class _Attempt:
    """Work in a daemon thread, which is left behind where it hangs, on one connection to the server."""

    def __init__(self, place: Place, seconds: float) -> None:
        self._place, self._seconds = place, seconds
        self._began = time.monotonic()
        self._server: Optional[Server] = None
        self._given_up = False
        self._guard = threading.Lock()
        self._results: SimpleQueue[Tuple[Any, Optional[BaseException]]] = SimpleQueue()

    @property
    def server(self) -> Server:
        """The connection, for the time that is left."""
        if self._server is None:
            self._server = Server(Address.find(*self._place), self._seconds - (time.monotonic() - self._began))
        return self._server

    def start(self, *works: Callable[[], Any]) -> _Attempt:
        """Begin; where one fails, those behind it are not begun."""

        def run() -> None:
            for work in works:
                try:
                    self._results.put((work(), None))
                except BaseException as error:  # whatever it is, somebody waits to be told
                    self._results.put((None, error))
                    return

        try:
            threading.Thread(target=run, daemon=True, name="sessionflow launch").start()
        except RuntimeError as error:  # the system has no more threads
            self._results.put((None, error))
        return self

    def result(self, seconds: float) -> Any:
        """Return the next result, `seconds` after the beginning at the latest; an error is raised as our own."""
        try:
            found, error = self._results.get(timeout=max(0.001, seconds - (time.monotonic() - self._began)))
        except Empty:
            self.give_up()
            raise UnsentError("Prefect's server, or finding it, takes too long") from None
        if isinstance(error, (KeyError, TypeError, AttributeError)):
            raise UnsentError(f"the server answers what Prefect's API does not ({error!r})") from error
        if error is not None:
            raise error
        return found

    def commit(self, request: Json, key: str) -> None:
        """Give a request the key under which it is sent now; once given up, nothing is sent any more."""
        with self._guard:
            if self._given_up:
                raise UnsentError("time was up")
            request["key"] = key

    def give_up(self) -> None:
        """Send nothing from now on, and end what is under way."""
        with self._guard:
            self._given_up = True
        if self._server is not None:
            self._server.cut()


def _launched(request: Json, place: Place, spool: Spool) -> Outcome:
    """Send one request, and those that are kept if there is time; keep it where it could not be sent."""
    attempt = _Attempt(place, ANSWER_SECONDS)
    attempt.start(lambda: _sent(attempt, request), lambda: list(_flushed(attempt, spool)))
    try:
        found: Outcome = attempt.result(GIVE_UP_SECONDS)
    except RefusedError as error:
        return Outcome(f"{_subject(request)} was not started: {error}. The request is not kept.")
    except Exception as error:
        attempt.give_up()
        return _kept(request, spool, f"{error}" or repr(error))
    with contextlib.suppress(Exception):
        others = _in_short([each for _, each in attempt.result(GIVE_UP_SECONDS)])
        found = dataclasses.replace(found, words=" ".join([found.words, *others]))
    return found


def _kept(request: Json, spool: Spool, why: str) -> Outcome:
    unsent = f"{_subject(request)} was not started: {why}."
    try:
        writing = _Attempt(("", "", "", ""), 0).start(lambda: spool.keep(request))
        path = writing.result(RETURN_SECONDS - GIVE_UP_SECONDS)
    except Exception as error:
        said = "writing it down takes too long" if isinstance(error, UnsentError) else str(error)
        return Outcome(f"{unsent} It could not be kept either: {said}. Launch it again.")
    later = f"The request is kept in {path} and sent by the next launch, or by: sessionflow launch --flush"
    return Outcome(f"{unsent} {later}", kept=str(path))


def _sent(attempt: _Attempt, request: Json, write: Callable[[Json], None] = lambda _: None) -> Outcome:
    """Start the run that a request asks for, once; `write` writes the request down with its key before it is sent.

    Two rigs that ask at the same moment find the same last run of the session, make the same key of it, and Prefect's
    database makes one run of one key. A key that has been used gives the old run back: where that has ended, the next
    key is made of it. A request that was perhaps sent before bears its key, and takes what that gives.
    """
    server = attempt.server
    request["api"] = request["api"] or server.address.api
    deployment = _deployment(server, request["deployment"])
    wanted = {**(deployment.get("parameters") or {}), **request["parameters"]}
    takes = _takes(deployment)
    if takes and (unknown := [name for name in request["parameters"] if name not in takes]):
        # Prefect would start the run, which would crash without a word
        raise RefusedError(f"{request['deployment']} takes no {', '.join(unknown)}; it takes {', '.join(takes)}")
    key, sent_before = request["key"], bool(request["key"])
    if not sent_before:
        earlier = _tagged_runs(server, deployment, wanted)
        live = next((run for run in earlier if _lives(run, server.now)), None) or _live_run(server, deployment, wanted)
        if live is not None:
            return _there_already(server, live, wanted, deployment)
        key = _key(deployment, wanted, earlier[0]["id"] if earlier else "")
    while True:
        write({**request, "key": key})
        attempt.commit(request, key)
        path = f"/deployments/{deployment['id']}/create_flow_run"
        run = server.ask("POST", path, _run_of(request, deployment, wanted, server.address.rig))
        if sent_before or not _ended(run):
            return _started(server, run, deployment, request)
        key = _key(deployment, wanted, run["id"])


def _deployment(server: Server, name: str) -> Json:
    flow, _, own = name.partition("/")
    try:
        found: Json = server.ask("GET", f"/deployments/name/{quote(flow, safe='')}/{quote(own, safe='')}")
    except RefusedError as error:
        if "Deployment not found" not in str(error):  # it is another program's API, or another address of Prefect's
            raise UnsentError(f"{server.address.api} answers what Prefect's API does not: {error}") from None
        raise RefusedError(f"{server.address.api} has no deployment {name}") from None
    return found


def _tagged_runs(server: Server, deployment: Json, wanted: Json) -> List[Json]:
    """Return the runs that were launched for the same target, the newest first: their tags tell."""
    query = {"deployment_id": {"any_": [deployment["id"]]}, "tags": {"all_": _tags(wanted)}}
    body = {"flow_runs": query, "sort": "EXPECTED_START_TIME_DESC", "limit": 20}
    return [run for run in server.ask("POST", "/flow_runs/filter", body, list) if _same_target(run, wanted)]


def _live_run(server: Server, deployment: Json, wanted: Json) -> Optional[Json]:
    """Return a run that was started in any other way: it bears no tags of ours, and its parameters tell.

    Prefect cannot look for parameters, so all runs of the deployment that have not ended are looked through, the newest
    first, for half of the time: of hundreds that wait, one may be missed. The session's lock then refuses the second.
    """
    half, offset = server.left / 2, 0
    while server.left > half:
        query = {"deployment_id": {"any_": [deployment["id"]]}, "state": {"type": {"any_": list(LIVE)}}}
        body = {"flow_runs": query, "sort": "EXPECTED_START_TIME_DESC", "limit": PAGE, "offset": offset}
        runs = server.ask("POST", "/flow_runs/filter", body, list)
        for run in runs:
            if _same_target(run, wanted) and _lives(run, server.now):
                return dict(run)
        offset += PAGE
        if len(runs) < PAGE:
            break
    return None


def _lives(run: Json, now: str) -> bool:
    """Whether a run has not ended, and is more than planned for later."""
    import calendar

    if _ended(run) or run["state_type"] != "SCHEDULED" or run.get("start_time"):
        return not _ended(run)
    soon = time.gmtime(calendar.timegm(time.strptime(now, TIME)) + SOON_SECONDS)
    return str(run.get("expected_start_time") or "")[:19] <= time.strftime(TIME, soon)[:19]


def _same_target(run: Json, wanted: Json) -> bool:
    has = run.get("parameters") or {}
    return all(_plain(has.get(name)) == _plain(wanted.get(name)) for name in TARGET)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, (str, int)) else value or ""


def _ended(run: Json) -> bool:
    return run.get("state_type") in ENDED


def _key(deployment: Json, wanted: Json, last: str) -> str:
    target = {name: _plain(wanted.get(name)) for name in TARGET}
    return "launch-" + hashlib.sha256(_canonical([deployment["id"], target, last]).encode()).hexdigest()[:40]


def _run_of(request: Json, deployment: Json, wanted: Json, rig: str) -> Json:
    who = {"requested_by": request["requested_by"] or _whoami(rig)} if "requested_by" in _takes(deployment) else {}
    named = _named(wanted)
    return {
        "parameters": {**request["parameters"], **who},
        "idempotency_key": request["key"],
        "tags": _tags(wanted),
        **({"name": named} if named else {}),
    }


def _tags(wanted: Json) -> List[str]:
    return [str(wanted[name]) for name in TAGGED if wanted.get(name)]


def _named(wanted: Json) -> str:
    return "/".join(str(wanted[name]) for name in TAGGED if wanted.get(name))


def _subject(request: Json) -> str:
    named = _named(request["parameters"])
    return f"{request['deployment'].partition('/')[0]}{' of ' + named if named else ''}"


def _started(server: Server, run: Json, deployment: Json, request: Json) -> Outcome:
    new, url = server.status == 201, _url(server, run["id"])
    note = _held_up(server, deployment)
    return _facts(run, url, f"{_subject(request)} is started: {url}{note}", new=new)


def _there_already(server: Server, run: Json, wanted: Json, deployment: Json) -> Outcome:
    has = {
        **{name: field.get("default") for name, field in _takes(deployment).items()},
        **(run.get("parameters") or {}),
    }
    other = [f"{k}={v}" for k, v in wanted.items() if k not in (*TARGET, "requested_by") and has.get(k) != v]
    note = f" (it was not asked for {', '.join(other)})" if other else ""
    note += _held_up(server, deployment) if run["state_type"] == "SCHEDULED" else ""
    url = _url(server, run["id"])
    return _facts(run, url, f"{_named(wanted)} has a run already, {run.get('name')}, {run['state_name']}: {url}{note}")


def _held_up(server: Server, deployment: Json) -> str:
    """Say what keeps a run from beginning now; a server that is slow to tell keeps nobody waiting for it."""
    pool: Json = {}
    if deployment.get("work_pool_name") and server.left > NOTE_SECONDS:
        with contextlib.suppress(UnsentError, RefusedError):
            pool = server.ask("GET", f"/work_pools/{quote(deployment['work_pool_name'], safe='')}")
    if pool.get("is_paused"):
        name = pool.get("name")
        return f" (the work pool {name} is paused: it begins when that is resumed, prefect work-pool resume {name})"
    idle = deployment.get("status") == "NOT_READY"
    return " (no worker asks for runs of this deployment now: it begins when one does)" if idle else ""


def _takes(deployment: Json) -> Json:
    """Return the parameters of a deployment's flow, each with its schema."""
    return (deployment.get("parameter_openapi_schema") or {}).get("properties") or {}


def _url(server: Server, run_id: str) -> str:
    return f"{server.address.ui}/runs/flow-run/{run_id}"


def _flush(place: Place, spool: str, seconds: float) -> List[Tuple[str, Outcome]]:
    try:
        attempt = _Attempt(place, seconds)
        attempt.start(lambda: list(_flushed(attempt, Spool(spool))))
        return list(attempt.result(seconds + 1))
    except Exception as error:
        return [("", Outcome(f"What is kept could not be sent: {error}."))]


def _flushed(attempt: _Attempt, spool: Spool) -> Iterator[Tuple[str, Outcome]]:
    """Send what is kept, the oldest first, until the server is away or time is up; each with its file."""
    if not spool.waiting():
        return
    with spool.alone() as mine:
        if not mine:
            yield "", Outcome("Another program is sending the requests that are kept.")
            return
        for path in spool.waiting():
            found, away = _flushed_one(attempt, spool, path)
            yield str(path), found
            if away:
                return


def _flushed_one(attempt: _Attempt, spool: Spool, path: Path) -> Tuple[Outcome, bool]:
    """Send one request; tell also whether there is no point in trying the next."""
    request = spool.read(path)
    if not request:
        return _set_aside(path, "unreadable", f"{path.name} holds no request"), False
    what = f"{_subject(request)}, asked for at {request['when']} by {request['requested_by'] or request['by']},"
    if _age_days(request) > KEPT_DAYS:
        return _set_aside(path, "expired", f"{what} is older than {KEPT_DAYS} days"), False
    try:
        api = attempt.server.address.api
        if request["api"] not in ("", api):
            return Outcome(f"{what} is kept for another server, {request['api']}, not {api}.", kept=str(path)), False
        found = _sent(attempt, request, lambda keyed: spool.write(path, keyed))
    except RefusedError as error:
        return _set_aside(path, "refused", f"{what} is refused: {error}"), False
    except UnsentError as error:
        return Outcome(f"{what} is still kept in {path}: {error}.", kept=str(path)), error.away
    except Exception as error:  # it must not hold up those behind it
        return Outcome(f"{what} is still kept in {path}: {error!r}.", kept=str(path)), False
    path.unlink()
    return dataclasses.replace(found, words=f"Asked for at {request['when']}: {found.words}"), False


def _set_aside(path: Path, why: str, words: str) -> Outcome:
    aside = path.with_suffix(f".{why}")
    path.replace(aside)
    return Outcome(f"{words}. It was not started and will not be; the request is now {aside}.")


def _in_short(others: List[Outcome]) -> List[str]:
    sent, kept = sum(1 for each in others if each.run_id), [each for each in others if each.kept]
    return [
        *([f"{sent} earlier request{' was' if sent == 1 else 's were'} sent too."] if sent else []),
        *(["Earlier ones are still kept; to see them: sessionflow launch --flush"] if kept else []),
        *(each.words for each in others if not each.run_id and not each.kept),
    ]


def _waited(found: Outcome, request: Json, place: Place, spool: str, until: float) -> Outcome:
    """Ask until the run has ended or time is up; what is kept is sent meanwhile."""
    api, auth, ca, rig = place
    pause, most = POLL_SECONDS
    while not found.ended and (found.run_id or found.kept) and time.monotonic() < until:
        time.sleep(min(pause, max(0.0, until - time.monotonic())))
        pause = min(most, pause * 1.5)
        if found.run_id:
            found = outcome(found, api=api, auth=auth, ca=ca, rig=rig)
        elif Path(found.kept).exists():
            found = dict(_flush(place, spool, 10)).get(found.kept, found)
        else:  # another program has sent it
            last = latest(request["deployment"], api=api, auth=auth, ca=ca, rig=rig, **request["parameters"])
            found = last if last.run_id else found
    return found


def _asked(known: Outcome, place: Place, ask: Callable[[Server], Outcome], seconds: float) -> Outcome:
    try:
        attempt = _Attempt(place, seconds * 0.75)
        found: Outcome = attempt.start(lambda: ask(attempt.server)).result(seconds * 0.9)
    except Exception as error:  # what the server has said before of the run still holds
        return dataclasses.replace(known, words=f"How the run stands could not be asked: {error}.")
    return dataclasses.replace(found, new=known.new)


def _standing(server: Server, run_id: str) -> Outcome:
    """Ask for a run and its parts; the checksum's part knows long before the whole has ended."""
    run = server.ask("GET", f"/flow_runs/{quote(run_id, safe='')}")
    query = {"flow_runs": {"parent_flow_run_id": {"any_": [run_id]}}, "limit": 100}
    parts = server.ask("POST", "/flow_runs/filter", query, list)
    own = [part for part in parts if _session_of(part) == _session_of(run)]  # not a project's: one speaks for no other
    labels = [str((each.get("labels") or {}).get(CHECKSUM_LABEL) or "") for each in (run, *own)]
    newest = max(labels, key=lambda label: label.rpartition(" ")[2])  # it ends with its time
    found = _facts(run, _url(server, run_id))
    message = (run.get("state") or {}).get("message") or ""
    checksum = f"checksum {newest}" if newest else "whether the checksum is verified is not known"
    return dataclasses.replace(
        found,
        words=f"{run.get('name')}: {found.state}{': ' + message if message else ''}; {checksum}.",
        # what was not verified by an earlier try of a run that goes on may be by this one
        verified=newest.startswith("verified") if newest and (found.ended or newest.startswith("verified")) else None,
    )


def _session_of(run: Json) -> List[Any]:
    has = run.get("parameters") or {}
    return [_plain(has.get(name)) for name in ("project", "animal", "session")]


def _facts(run: Json, url: str, words: str = "", new: bool = False) -> Outcome:
    ended = _ended(run)
    succeeded = run["state_type"] == "COMPLETED" if ended else None
    return Outcome(words, run["id"], url, str(run.get("state_name") or ""), ended, succeeded, new=new)


def write_private(path: Path, text: str) -> None:
    """Write a file whole, readable by this account alone."""
    import tempfile

    handle, temporary = tempfile.mkstemp(dir=str(path.parent), prefix=".new-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def rig_path() -> Path:
    """Return where this account's rig file lies, or would."""
    return _own_folder("config") / "rig.json"


def _rig_file(named: str) -> Json:
    named = named or os.environ.get("SESSIONFLOW_RIG", "")
    for path in [Path(named)] if named else [Path(__file__).with_name("rig.json"), rig_path()]:
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if named:
                raise UnsentError(f"the rig's file {path} does not exist") from None
            continue
        except (OSError, ValueError) as error:
            raise UnsentError(f"the rig's file {path} cannot be read: {error}") from error
        if not isinstance(kept, dict):
            raise UnsentError(f"the rig's file {path} is not one that `sessionflow rig add` wrote")
        return {name: str(value) for name, value in kept.items()}
    return {}


def _own_folder(kind: str) -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "sessionflow"
    variable, usual = {"state": ("XDG_STATE_HOME", ".local/state"), "config": ("XDG_CONFIG_HOME", ".config")}[kind]
    return Path(os.environ.get(variable) or Path.home() / usual) / "sessionflow"


def _normal(api: str) -> str:
    api = api.strip().rstrip("/")
    return f"{api}/api" if api and not urlsplit(api).path else api


def _full(deployment: str) -> str:
    return deployment if "/" in deployment else f"{deployment}/{deployment}"


def _whoami(rig: str = "") -> str:
    import platform

    user = os.environ.get("USER") or os.environ.get("USERNAME") or ""
    return f"{user}@{rig or platform.node()}".lstrip("@")


def _now() -> str:
    return time.strftime(TIME, time.gmtime())


def _age_days(request: Json) -> float:
    import calendar

    with contextlib.suppress(ValueError, OverflowError):
        return (time.time() - calendar.timegm(time.strptime(request["when"], TIME))) / 86400
    return KEPT_DAYS + 1


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _value(text: str) -> Any:
    """Read a word of the command line: JSON, else a text."""
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return text


def main(words: List[str]) -> int:
    """`python launch.py DEPLOYMENT project=P animal=A session=S …`; without words: send what is kept."""
    if not words:
        found = flush()
        print("\n".join(each.words for each in found) or "Nothing is kept.")
        return 1 if any(not each.run_id for each in found) else 0
    pairs = [word.partition("=") for word in words[1:]]
    named: Dict[str, Any] = {name: value if name in TAGGED else _value(value) for name, _, value in pairs}
    if not all(name.isidentifier() and equals for name, equals, _ in pairs) or "deployment" in named:
        print(f"Nothing was started. {main.__doc__}")
        return 1
    done = launch(words[0], **named)
    print(done.words)
    return 0 if done.run_id else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
