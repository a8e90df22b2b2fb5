"""Logins with one-time passwords, kept by a holder process for all of the account's programs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import held
from tasks.login import _harmless, login, logout
from tasks.ssh import SshAddress, connect
from tasks.ssh_config import route
from tests.conftest import make_session
from tests.daemon import wait_until
from tests.prefect_server import REPOSITORY, PrefectServer
from tests.sshd import Sshd
from trackers.errors import (
    AuthenticationError,
    BadInputError,
    CommandTimeoutError,
    HostKeyError,
    LoginNeededError,
    UnreachableError,
)

QUICK = {"SHLVL": "1"}  # bash then leaves this account's .bashrc out
StartSshd = Callable[..., Sshd]


class Person:
    """Answers in turn; an exception among the answers is raised."""

    def __init__(self, *answers: str | BaseException) -> None:
        self.answers = list(answers)
        self.seen: list[str] = []

    def show(self, text: str) -> None:
        self.seen.append(text)

    def ask(self, question: str, *, seen: bool) -> str:
        self.seen.append(f"{question}{'' if seen else '(hidden)'}")
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def runtime_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A short folder for sockets, and a home without keys and configuration."""
    folder = Path(tempfile.mkdtemp(prefix="sf", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield folder
    assert wait_until(lambda: not holders(), 15), "a holder outlives its test"
    shutil.rmtree(folder)


def holders() -> list[int]:
    found = subprocess.run(["pgrep", "-f", "tasks[.]holder"], capture_output=True, text=True, check=False).stdout
    mine = f"XDG_RUNTIME_DIR={os.environ['XDG_RUNTIME_DIR']}".encode()
    return [pid for pid in map(int, found.split()) if mine in environment(pid)]


def environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def address(server: Sshd, **fields: Any) -> SshAddress:
    known = {"user": server.account, "port": server.port, "known_hosts_file": str(server.known_hosts_file)}
    return SshAddress(server.host, **{**known, "interactive": True, "name": "cluster", **fields})


def sockets(runtime_folder: Path) -> list[str]:
    folder = runtime_folder / "sessionflow"
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def server(own_sshd: StartSshd) -> Sshd:
    return own_sshd(environment=QUICK, authentication="keyboard-interactive")


@pytest.fixture
def logged_in(server: Sshd) -> Iterator[SshAddress]:
    assert login(address(server), Person(server.one_time_password())) == f"root@127.0.0.1:{server.port}"
    yield address(server)
    logout(address(server))


ELSEWHERE = """
import asyncio, sys
from tasks.ssh import SshAddress, connect
async def main():
    connection = await connect(eval(sys.argv[1]))
    print((await connection.run(["echo", "hello"])).stdout.decode(), end="")
asyncio.run(main())
"""


def elsewhere(where: SshAddress, program: str = ELSEWHERE) -> subprocess.Popen[str]:
    """Let another process say hello over the login."""
    command = [sys.executable, "-c", program, repr(where)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_one_login_serves_several_processes(server: Sshd, logged_in: SshAddress) -> None:
    processes = [elsewhere(logged_in) for _ in range(3)]
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert output == "hello\n", errors
    assert server.logins == 1


def test_the_servers_questions_reach_the_person(server: Sshd) -> None:
    person = Person("wrong", server.one_time_password())
    login(address(server), person)
    assert person.seen == ["Password: (hidden)", "That was not accepted.", "Password: (hidden)"]
    assert logout(address(server))


def test_the_servers_notice_comes_before_its_questions(own_sshd: StartSshd, tmp_path: Path) -> None:
    (tmp_path / "notice").write_text("Members of the lab only.\n")
    notice = {"Banner": tmp_path / "notice"}
    server = own_sshd(authentication="keyboard-interactive", sshd_config=notice)
    person = Person(server.one_time_password())
    login(address(server), person)
    assert person.seen == ["Members of the lab only.", "Password: (hidden)"]
    assert logout(address(server))


def test_a_key_and_a_code_are_asked_for_one_after_the_other(own_sshd: StartSshd) -> None:
    server = own_sshd(authentication="publickey,keyboard-interactive")
    person = Person(server.one_time_password())
    login(address(server, key_file=str(server.key_file)), person)
    assert person.seen == ["Password: (hidden)"]
    assert logout(address(server))


def test_a_password_is_asked_for_where_the_server_takes_one(own_sshd: StartSshd) -> None:
    server = own_sshd(authentication="password")
    person = Person(server.one_time_password())
    login(address(server), person)
    assert person.seen == ["root@127.0.0.1's password: (hidden)"]
    assert logout(address(server))


def test_wrong_answers_end_the_login_and_leave_nothing(server: Sshd, runtime_folder: Path) -> None:
    with pytest.raises(AuthenticationError, match="answers were not accepted"):
        login(address(server), Person("wrong", "again", "and again"))
    assert sockets(runtime_folder) == []


@pytest.mark.parametrize("answer", [KeyboardInterrupt(), EOFError()])
def test_a_person_who_gives_up_leaves_nothing(server: Sshd, runtime_folder: Path, answer: BaseException) -> None:
    with pytest.raises(type(answer)):
        login(address(server), Person(answer))
    assert wait_until(lambda: not holders(), 15)
    assert sockets(runtime_folder) == []


def test_an_unknown_host_key_is_refused_before_anything_is_asked(server: Sshd) -> None:
    server.known_hosts_file.write_text("")
    with pytest.raises(HostKeyError, match="SHA256:"):
        login(address(server), Person())


async def test_without_a_login_the_error_says_what_to_run(server: Sshd) -> None:
    with pytest.raises(LoginNeededError, match="sessionflow server login cluster"):
        await connect(address(server))
    assert server.logins == 0


@pytest.mark.slow
def test_whoever_started_a_run_is_told_in_the_terminal_that_it_waits_for_login(
    server: Sshd, logged_in: SshAddress, prefect: PrefectServer, tmp_path: Path
) -> None:
    make_session(tmp_path / "storage")
    begun = tmp_path / "begun"
    slow = f"touch {begun}; sleep 8; export PYTHONPATH={REPOSITORY}"
    environments = {
        "core": {"python": sys.executable, "activate": f"export PYTHONPATH={REPOSITORY}"},
        "manifest": {"python": sys.executable, "activate": slow},
    }
    way = {"host": server.host, "port": server.port, "user": server.account, "interactive_login": True}
    known = {"known_hosts_file": str(server.known_hosts_file), "storage_root": str(tmp_path / "storage")}
    (tmp_path / "server.yaml").write_text(yaml.safe_dump({**way, **known, "environments": environments}))
    command = ["run", "manifest", "--project", "Project", "--server", str(tmp_path / "server.yaml")]
    run = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *command],
        env={**prefect.environment, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"]},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert wait_until(begun.exists, 60), run.communicate(timeout=60)
    server.drop_connections()
    assert run.stderr is not None
    said = ""
    while "waiting for login" not in said:
        said = run.stderr.readline()
        assert said, "it ended without a word"
    assert "sessionflow server login" in said
    login(logged_in, Person(server.one_time_password()))
    printed, errors = run.communicate(timeout=60)
    assert run.returncode == 0, printed + errors
    assert "answers again" in errors


async def test_a_socket_that_nobody_listens_at_is_no_login(server: Sshd, runtime_folder: Path) -> None:
    path = held.private_folder(runtime_folder / "sessionflow") / held.socket_name(route(address(server))[-1])
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with pytest.raises(LoginNeededError):
        await connect(address(server))
    await asyncio.to_thread(login, address(server), Person(server.one_time_password()))
    connection = await connect(address(server))
    assert (await connection.run(["echo", "hello"])).stdout == b"hello\n"
    await connection.close()
    assert await asyncio.to_thread(logout, address(server))


async def test_all_that_a_connection_does_is_done_through_the_holder(logged_in: SshAddress) -> None:
    connection = await connect(logged_in)
    done = await connection.run(["sh", "-c", "cat; echo no >&2; exit 3"], input=b"it's $HOME")
    assert (done.stdout, done.stderr, done.exit_code) == (b"it's $HOME", b"no\n", 3)
    data = bytes(range(256)) * 20_000
    assert (await connection.run(["cat"], input=data)).stdout == data
    assert (await connection.run(["true"], input=data)).exit_code == 0
    with pytest.raises(CommandTimeoutError, match="almost"):
        await connection.run(["sh", "-c", "echo almost; sleep 60"], timeout=0.5)
    channel = await connection.open(["cat"])
    for line in (b"one\n", b"x" * 1_000_000 + b"\n"):
        await channel.send(line)
        assert await channel.receive() == line
    await channel.close()
    channel = await connection.open(["sh", "-c", "echo no such module >&2; exit 1"])
    assert await channel.receive() == b""
    with pytest.raises(ConnectionError, match=r"exit code 1.*no such module"):
        await channel.send(b"hello\n")
    await channel.close()
    await connection.close()


async def test_the_holder_waits_for_places_on_the_server(own_sshd: StartSshd) -> None:
    server = own_sshd(environment=QUICK, authentication="keyboard-interactive", sshd_config={"MaxSessions": 2})
    await asyncio.to_thread(login, address(server), Person(server.one_time_password()))
    connection = await connect(address(server))
    channel = await connection.open(["cat"])
    done = await asyncio.gather(*(connection.run(["echo", str(number)]) for number in range(30)))
    assert [int(each.stdout) for each in done] == list(range(30))
    await channel.close()
    await connection.close()
    assert await asyncio.to_thread(logout, address(server))
    assert server.logins == 1


@pytest.mark.slow
async def test_a_client_that_is_killed_gives_its_place_back(own_sshd: StartSshd) -> None:
    """Also one whose command does not read the input that it was sent."""
    server = own_sshd(authentication="keyboard-interactive", sshd_config={"MaxSessions": 1}, account="nobody")
    await asyncio.to_thread(login, address(server), Person(server.one_time_password()))
    program = ELSEWHERE.replace('["echo", "hello"]', '["sleep", "600"], input=b"x" * 10_000_000')
    with elsewhere(address(server), program) as process:
        assert await asyncio.to_thread(wait_until, lambda: server.channels == 1, 30)
        await asyncio.sleep(1)  # its input has filled all that lies between
        process.kill()
    connection = await connect(address(server))
    assert (await connection.run(["echo", "hello"])).stdout == b"hello\n"
    await connection.close()
    assert await asyncio.to_thread(logout, address(server))


async def test_when_the_connection_ends_so_does_the_holder(server: Sshd, runtime_folder: Path) -> None:
    await asyncio.to_thread(login, address(server), Person(server.one_time_password()))
    connection = await connect(address(server))
    channel = await connection.open(["cat"])
    running = asyncio.create_task(connection.run(["sleep", "60"]))
    assert await asyncio.to_thread(wait_until, lambda: server.channels == 2, 30)
    server.drop_connections()
    with pytest.raises(UnreachableError, match="was lost"):
        await running
    assert await channel.receive() == b""
    await channel.close()
    assert await asyncio.to_thread(wait_until, lambda: not holders(), 15)
    assert sockets(runtime_folder) == []
    with pytest.raises(UnreachableError):
        await connection.run(["true"])
    with pytest.raises(LoginNeededError):
        await connect(address(server))
    await connection.close()


async def test_a_logout_ends_holder_and_connection(server: Sshd, runtime_folder: Path) -> None:
    await asyncio.to_thread(login, address(server), Person(server.one_time_password()))
    assert sockets(runtime_folder) == [held.socket_name(route(address(server))[-1])]
    assert await asyncio.to_thread(logout, address(server))
    assert await asyncio.to_thread(wait_until, lambda: not holders() and not server._connections(), 15)
    assert sockets(runtime_folder) == []
    assert not await asyncio.to_thread(logout, address(server))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_holder_that_the_system_ends_leaves_no_socket(
    server: Sshd, runtime_folder: Path, number: signal.Signals
) -> None:
    login(address(server), Person(server.one_time_password()))
    os.kill(holders()[0], number)
    assert wait_until(lambda: not holders(), 15)
    assert sockets(runtime_folder) == []


async def test_a_second_login_takes_the_place_of_the_first(server: Sshd, runtime_folder: Path) -> None:
    await asyncio.to_thread(login, address(server), Person(server.one_time_password()))
    first = holders()
    connection = await connect(address(server))
    await asyncio.to_thread(login, address(server), Person(server.one_time_password()))
    assert await asyncio.to_thread(wait_until, lambda: len(holders()) == 1, 15)
    assert holders() != first
    assert (await connection.run(["echo", "hello"])).stdout == b"hello\n"
    await connection.close()
    assert server.logins == 2
    assert sockets(runtime_folder) == [held.socket_name(route(address(server))[-1])]
    assert await asyncio.to_thread(logout, address(server))


async def test_the_folder_of_the_sockets_belongs_to_this_account_alone(
    server: Sshd, runtime_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (runtime_folder / "sessionflow").mkdir(mode=0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(runtime_folder / "cache"))
    await asyncio.to_thread(login, address(server), Person(server.one_time_password()))
    assert sockets(runtime_folder) == []
    assert sockets(runtime_folder / "cache") == [held.socket_name(route(address(server))[-1])]
    connection = await connect(address(server))
    assert (await connection.run(["echo", "hello"])).stdout == b"hello\n"
    await connection.close()
    assert await asyncio.to_thread(logout, address(server))


def test_a_login_that_could_not_be_kept_asks_nothing(
    server: Sshd, runtime_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (runtime_folder / "sessionflow").mkdir(mode=0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(runtime_folder / ("x" * 100)))
    with pytest.raises(BadInputError, match=r"mode 0700.*too long"):
        login(address(server), Person())


def test_other_accounts_are_not_served(logged_in: SshAddress, runtime_folder: Path) -> None:
    path = runtime_folder / "sessionflow" / held.socket_name(route(logged_in)[-1])
    for each, mode in ((runtime_folder, 0o711), (path.parent, 0o711), (path, 0o777)):
        each.chmod(mode)
    program = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(1))"
    command = ["python3", "-c", program, str(path)]
    done = subprocess.run(command, user="nobody", capture_output=True, text=True, check=False, cwd="/")
    path.parent.chmod(0o700)
    assert done.stdout == "b''\n" or "Connection reset" in done.stderr, done.stderr


def test_what_was_typed_stands_in_no_argument_environment_or_file(server: Sshd, runtime_folder: Path) -> None:
    password = server.one_time_password()
    login(address(server), Person(password))
    (pid,) = holders()
    for file in ("cmdline", "environ"):
        assert password.encode() not in Path(f"/proc/{pid}/{file}").read_bytes()
    assert {Path(f"/proc/{pid}/fd/{number}").readlink() for number in (0, 1, 2)} == {Path("/dev/null")}
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    assert [line.split()[4] for line in limits if line.startswith("Max core file size")] == ["0"]
    assert logout(address(server))


def test_a_server_cannot_steer_the_terminal_with_its_questions() -> None:
    assert _harmless("Code\x1b[2J\x07:\n\tü\x9b") == "Code[2J:\n\tü"
