"""An acquisition program is never held up and never ended by us, whatever the server does; its request is kept."""

from __future__ import annotations

import ast
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import launch as module
from flows.launch import LaunchError, Outcome, Spool, flush, latest, launch, outcome
from tests.launching import SESSION, answering, certificate, http, listening
from tests.prefect_server import free_port

SECONDS = 2.0 + 1.0  # promised, and slack for a busy machine
NAMES: dict[str, Any] = {"project": "Project", "animal": 305, "session": SESSION}


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_API_SSL_CERT_FILE", "SESSIONFLOW_RIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SESSIONFLOW_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "spool"


FAULTS = {
    "never answers": answering(b""),
    "hangs in the middle of an answer": answering(http(b'{"id": ', length=1000)),
    "answers a letter at a time": answering(http(b" " * 200 + b"{}"), pause=0.2),
    "answers a page": answering(http(b"<html>Welcome</html>")),
    "answers another JSON": answering(http(b"[1, 2]")),
    "answers an object of another kind": answering(http(b'{"hello": "you"}')),
    "does not speak HTTP": answering(b"220 smtp.example.org ESMTP\r\n"),
    "answers that all is well for ever": answering(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "breaks": answering(http(b'{"exception_message": "Internal Server Error"}', "500 Internal Server Error")),
    "is locked": answering(http(b"{}", "503 Service Unavailable")),
    "wants a login": answering(http(b'{"exception_message": "Unauthorized"}', "401 Unauthorized")),
    "is another program's": answering(http(b'{"detail": "Not Found"}', "404 Not Found")),
    "is somewhere else": answering(http(b"", "302 Found")),
    "closes": lambda connection: connection.close(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_the_server_does_the_caller_goes_on_soon_and_the_request_is_kept(fault: str) -> None:
    with listening(FAULTS[fault]) as api:
        assert_kept(api)


def assert_kept(api: str, *words: str, **place: Any) -> Outcome:
    began = time.monotonic()
    found = launch("process-session", **NAMES, api=api, **place)
    assert time.monotonic() - began < SECONDS
    assert (found.run_id, found.ended, found.verified) == ("", None, None)
    assert "was not started" in found.words
    assert "sessionflow launch --flush" in found.words
    for each in words:
        assert each in found.words
    kept = json.loads(Path(found.kept).read_text())
    assert kept["parameters"] == {"project": "Project", "animal": "305", "session": SESSION}
    return found


@pytest.mark.parametrize(
    ("api", "words"),
    [
        (f"http://127.0.0.1:{free_port()}/api", "refused"),
        ("http://no-such-host.invalid/api", "leads nowhere"),
        ("http://127.0.0.1:99999/api", "cannot be reached"),
        ("lab.example.org:4200", "http"),
        ("", "sessionflow rig add"),
    ],
    ids=["nobody listens", "no such host", "no such port", "no address", "nothing"],  # the same in every process
)
def test_without_a_server_the_words_say_what_to_look_at(api: str, words: str) -> None:
    assert_kept(api, words)


def test_a_name_server_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(30))
    assert_kept("http://lab.example.org/api", "takes too long")


def test_a_folder_that_hangs_holds_nobody_up_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spool, "keep", lambda *_: time.sleep(30))
    began = time.monotonic()
    found = launch("process-session", **NAMES, api=f"http://127.0.0.1:{free_port()}/api")
    assert time.monotonic() - began < SECONDS
    assert "could not be kept either" in found.words


def test_a_request_that_nobody_can_keep_is_said_to_be_lost(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = launch("process-session", **NAMES, api="http://127.0.0.1:9/api", spool=str(tmp_path / "file" / "spool"))
    assert (found.kept, found.run_id) == ("", "")
    assert "could not be kept either" in found.words
    assert "Launch it again" in found.words


def test_it_raises_only_where_it_is_asked_to() -> None:
    with pytest.raises(LaunchError) as error:
        launch("process-session", **NAMES, api="http://127.0.0.1:9/api", raise_errors=True)
    assert error.value.outcome.kept
    circle: list[Any] = []
    circle.append(circle)
    nonsense: Any = None
    for found in (launch(nonsense), launch("process-session", **NAMES, options=circle), outcome(nonsense)):
        assert isinstance(found, Outcome)
        assert not found.run_id or found.ended is None
    assert latest("process-session", **NAMES, api="http://127.0.0.1:9/api").ended is None


def test_what_is_no_number_of_minutes_or_seconds_raises_nothing_either() -> None:
    wrong: Any = "an hour"
    assert "was not started" in launch("process-session", project="P", wait=wrong).words
    assert "could not be asked" in outcome("00000000-0000-0000-0000-000000000000", seconds=wrong).words
    assert "could not be sent" in flush(seconds=wrong)[0].words


def test_an_authority_of_the_lab_is_believed_where_its_certificate_is_given(tmp_path: Path) -> None:
    context, pem = certificate(tmp_path)
    with listening(answering(http(b'{"detail": "Deployment not found"}', "404 Not Found")), context) as api:
        assert_kept(api, "certificate", "not trusted", "ca=FILE")
        assert_kept(api.replace("https", "http"))
        assert_kept(api, "cannot be reached", "certificate", ca=str(tmp_path / "missing.pem"))
        reached = launch("process-session", **NAMES, api=api, ca=str(pem))
        assert "has no deployment process-session/process-session" in reached.words
        assert not reached.kept
    with listening(answering(b"")) as api:
        assert_kept(api.replace("http", "https"))


def test_the_same_request_is_kept_once_and_the_folder_has_a_bound(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = f"http://127.0.0.1:{free_port()}/api"
    assert assert_kept(api).kept == assert_kept(api).kept
    other = launch("process-session", **{**NAMES, "animal": "306"}, api=api)
    assert [path.name for path in Spool().waiting()] == sorted(p.name for p in own_folders.glob("*.json"))
    assert len(Spool().waiting()) == 2
    assert stat.S_IMODE(own_folders.stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(other.kept).stat().st_mode) == 0o600
    monkeypatch.setattr(module, "MOST_KEPT", 2)
    refused = launch("process-session", **{**NAMES, "animal": "307"}, api=api)
    assert "holds 2 requests already" in refused.words
    assert not refused.kept


def test_what_is_too_old_or_no_request_is_not_sent_and_that_is_said(own_folders: Path) -> None:
    spool = Spool()
    old = {"deployment": "a/a", "parameters": {"project": "Old"}, "when": "2020-01-01T00:00:00Z", "requested_by": "Ann"}
    spool.write(own_folders / "20200101T000000Z-0-0.json", old)
    (own_folders / "20200101T000001Z-0-0.json").write_text("{")
    said = [each.words for each in flush(api="http://127.0.0.1:9/api")]
    assert "asked for at 2020-01-01T00:00:00Z by Ann, is older than 30 days. It was not started" in said[0]
    assert "holds no request" in said[1]
    assert flush(api="http://127.0.0.1:9/api") == []
    assert sorted(path.suffix for path in own_folders.glob("2020*")) == [".expired", ".unreadable"]


def test_a_request_for_another_server_stays_where_it_is() -> None:
    kept = assert_kept("http://127.0.0.1:9/api")
    (left,) = flush(api="http://127.0.0.1:8/api")
    assert "for another server, http://127.0.0.1:9/api" in left.words
    assert left.kept == kept.kept


def test_a_login_goes_to_its_own_address_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = tmp_path / "rig.json"
    rig.write_text(json.dumps({"rig": "mesoscope-1", "api": "https://lab.example.org/api", "auth": "lab:secret"}))
    find = module.Address.find
    assert find(rig=str(rig)).auth == "lab:secret"
    assert find(rig=str(rig)).rig == "mesoscope-1"
    assert find(api="https://lab.example.org/", rig=str(rig)).auth == "lab:secret"
    assert find(api="http://elsewhere.example.org/api", rig=str(rig)).auth == ""
    assert find(api="http://elsewhere.example.org/api", auth="a:b", rig=str(rig)).auth == "a:b"
    monkeypatch.setenv("PREFECT_API_URL", "http://third.example.org/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "third:login")
    assert find(rig=str(rig)) == module.Address("http://third.example.org/api", "third:login", rig="mesoscope-1")
    assert find(api="https://lab.example.org/api", rig=str(rig)).auth == "lab:secret"
    assert "secret" not in repr(find(api="https://lab.example.org/api", rig=str(rig)))


def test_rig_add_writes_a_file_for_its_owner_alone_and_launch_finds_it(tmp_path: Path) -> None:
    login = tmp_path / "login"
    login.write_text("lab:secret\n")
    api = f"http://127.0.0.1:{free_port()}/api"
    _context, pem = certificate(tmp_path)
    done = command("rig", "add", "mesoscope-1", "--api", api, "--login", str(login), "--ca", str(pem))
    path = tmp_path / "config" / "sessionflow" / "rig.json"
    assert f"Wrote {path}. It holds the login, which is a secret" in done.stdout
    assert "could not be asked" in done.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {
        "rig": "mesoscope-1",
        "api": api,
        "auth": "lab:secret",
        "ca": pem.read_text(),
    }
    assert "secret" not in done.stdout.replace("which is a secret", "")
    assert_kept("", api)
    again = command("rig", "add", "other", "--api", api)
    assert (again.returncode, "there already" in again.stderr) == (2, True)
    path.write_text("[]")
    assert_kept("", "sessionflow rig add")


def test_the_command_says_with_its_code_that_a_request_is_kept() -> None:
    names = ["--project", "Project", "--animal", "305", "--session", SESSION]
    kept = command("launch", "process-session", *names, "--api", "http://127.0.0.1:9/api", "--json")
    assert kept.returncode == 4
    assert Path(json.loads(kept.stdout)["kept"]).exists()
    flushed = command("launch", "--flush", "--api", "http://127.0.0.1:9/api")
    assert (flushed.returncode, "is still kept" in flushed.stdout) == (4, True)
    assert command("launch").returncode == 2
    assert command("launch", "process-session", "--set", "x").returncode == 2


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def pythons() -> Iterator[str]:
    """Return this interpreter, and older ones that are there."""
    yield sys.executable
    for name in ("python3.8", "python3.9", "python3.10"):
        found = shutil.which(name)
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            yield found


def test_the_file_alone_copied_anywhere_works_in_an_old_python_without_anything_else(tmp_path: Path) -> None:
    copy = tmp_path / "rig" / "launch.py"
    copy.parent.mkdir()
    shutil.copy(module.__file__, copy)
    ast.parse(copy.read_text(), feature_version=(3, 8))
    (copy.parent / "rig.json").write_text(json.dumps({"api": "http://127.0.0.1:9/api"}))
    program = (
        f"import sys; sys.path.insert(0, {str(copy.parent)!r}); import launch; "
        "slow = {'http.client', 'ssl', 'socket', 'asyncio', 'prefect', 'flows'} & set(sys.modules); assert not slow; "
        "print(launch.launch('process-session', project='P', animal=305, session='S').words)"
    )
    for python in pythons():
        done = subprocess.run([python, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
        assert "http://127.0.0.1:9/api cannot be reached" in done.stdout, done.stderr
        by_words = [python, "-I", "-S", str(copy), "process-session", "project=P", "animal=305", "session=S"]
        done = subprocess.run(by_words, capture_output=True, text=True, check=False)
        assert (done.returncode, "The request is kept" in done.stdout) == (1, True), done.stderr
        subprocess.run([*by_words, "reprocess=true"], capture_output=True, check=False)
        kept = {json.dumps(Spool().read(path)["parameters"]) for path in Spool().waiting()}
        assert '{"project": "P", "animal": "305", "session": "S", "reprocess": true}' in kept
        done = subprocess.run([*by_words, "reprocess"], capture_output=True, text=True, check=False)
        assert (done.returncode, "DEPLOYMENT project=P" in done.stdout, done.stderr) == (1, True, "")


def test_it_imports_and_keeps_requests_as_on_windows(tmp_path: Path) -> None:
    """Where the system locks files differently, and another variable names the account's folder."""
    program = (
        "import sys, types\n"
        "sys.modules['fcntl'] = sys.modules['pwd'] = sys.modules['grp'] = None\n"
        "locks = []\n"
        "sys.modules['msvcrt'] = types.SimpleNamespace(LK_NBLCK=2, locking=lambda *words: locks.append(words))\n"
        "from flows.launch import flush, launch\n"
        "sys.platform = 'win32'\n"
        "kept = launch('process-session', project='P', api='http://127.0.0.1:9/api').kept\n"
        "assert len(flush(api='http://127.0.0.1:9/api')) == 1\n"
        "assert locks\n"
        "print(kept)"
    )
    environment = {**os.environ, "LOCALAPPDATA": str(tmp_path / "AppData")}
    del environment["SESSIONFLOW_SPOOL"]
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(str(tmp_path / "AppData" / "sessionflow" / "launch")), done.stderr
