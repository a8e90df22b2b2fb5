"""The way to a server: `~/.ssh/config`, jump hosts, and all that can stand in between."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks import ssh_dial, ssh_transport
from tasks.backoff import pause
from tasks.ssh import SshAddress, connect
from tasks.ssh_config import route
from tests.daemon import free_port, wait_until
from tests.sshd import Sshd
from trackers.errors import BadInputError, HostKeyError, SessionflowError, UnreachableError

StartSshd = Callable[..., Sshd]
QUICK = {"SHLVL": "1"}  # bash then leaves this account's .bashrc out


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without keys and configuration, and no agent."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def configure(home: Path, text: str, name: str = "config") -> None:
    file = home / ".ssh" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


def address(server: Sshd, **fields: Any) -> SshAddress:
    known = {"user": server.account, "port": server.port, "key_file": str(server.key_file)}
    return SshAddress(server.host, **{**known, "known_hosts_file": str(server.known_hosts_file), **fields})


def named(server: Sshd, name: str, *more: str) -> str:
    """Return the configuration by which a server has a name."""
    lines = [server.ssh_config.replace("Host cluster", f"Host {name}").rstrip(), *(f"  {line}" for line in more)]
    return "\n".join(lines) + "\n"


async def hello(where: SshAddress) -> str:
    connection = await connect(where)
    try:
        return (await connection.run(["echo", "hello"])).stdout.decode().strip()
    finally:
        await connection.close()


async def test_a_name_of_the_users_configuration_is_enough(own_sshd: StartSshd, home: Path) -> None:
    server = own_sshd(environment=QUICK)
    configure(home, f"Include included/*.conf\nHost other\n  Port 1\n{named(server, 'lab')}")
    assert await hello(SshAddress("lab")) == "hello"


async def test_included_files_count_where_they_are_included(home: Path) -> None:
    configure(home, "Host lab\n  HostName first\n  Include more\n  User me\nHost *\n  Port 2222\n")
    configure(home, "Host lab\n  HostName second\nHost elsewhere\n  HostName third\n", name="more")
    (hop,) = route(SshAddress("lab"))
    assert (hop.host, hop.user, hop.port, hop.known_as) == ("first", "me", 2222, "[first]:2222")


def test_the_description_of_a_server_comes_before_the_configuration(home: Path) -> None:
    configure(home, "Host lab\n  User you\n  Port 1\n  IdentityFile ~/other\n  UserKnownHostsFile /hosts\n")
    (hop,) = route(SshAddress("lab", user="me", port=22, key_file="~/mine", known_hosts_file="~/known"))
    assert (hop.user, hop.port) == ("me", 22)
    assert (hop.key_files, hop.known_hosts_files) == ((home / "mine", home / "other"), (home / "known",))


def test_jumps_follow_each_other_and_each_has_a_configuration(home: Path) -> None:
    configure(
        home,
        "Host lab\n  ProxyJump me@[::1]:2200,inner\nHost inner\n  HostName in\n  ProxyJump ignored\n"
        "Host outer\n  ProxyJump none\nHost via\n  ProxyJump outer\nHost other\n  ProxyJump via:77\n",
    )
    assert [(hop.user, hop.place) for hop in route(SshAddress("lab", user="x"))][:1] == [("me", "[::1]:2200")]
    assert [hop.place for hop in route(SshAddress("lab"))] == ["[::1]:2200", "in:22", "lab:22"]
    assert [hop.place for hop in route(SshAddress("other"))] == ["outer:22", "via:77", "other:22"]


@pytest.mark.parametrize(
    "text",
    ["Host *\n  ProxyJump bastion\n", "Host lab\n  ProxyJump a b\n", "Host lab\n  Port many\n", "Match exec\n", "?\n"],
)
def test_a_configuration_that_cannot_be_used_is_said(home: Path, text: str) -> None:
    configure(home, text)
    with pytest.raises(BadInputError, match=r"~/\.ssh/config cannot be used"):
        route(SshAddress("lab"))


async def test_a_server_behind_two_others_is_reached_through_them(own_sshd: StartSshd, home: Path) -> None:
    outer, inner, server = (own_sshd(environment=QUICK) for _ in range(3))
    configure(home, named(outer, "outer") + named(inner, "inner") + named(server, "lab", "ProxyJump outer,inner"))
    assert await hello(SshAddress("lab")) == "hello"
    assert (outer.logins, inner.logins, server.logins) == (1, 1, 1)
    assert server.key_file != outer.key_file


async def test_every_server_on_the_way_has_its_host_key_checked(own_sshd: StartSshd, home: Path) -> None:
    outer, server = own_sshd(), own_sshd()
    configure(home, named(outer, "outer") + named(server, "lab", "ProxyJump outer"))
    server.change_host_key()
    with pytest.raises(HostKeyError, match=f"127.0.0.1:{server.port} presented .*echo '"):
        await connect(SshAddress("lab"))
    outer.change_host_key()
    with pytest.raises(HostKeyError, match=f"127.0.0.1:{outer.port} presented .*ssh-keyscan"):
        await connect(SshAddress("lab"))
    assert server.logins == 0


async def test_a_way_that_breaks_in_the_middle_is_noticed(own_sshd: StartSshd, home: Path) -> None:
    outer, server = own_sshd(environment=QUICK), own_sshd(environment=QUICK)
    configure(home, named(outer, "outer") + named(server, "lab", "ProxyJump outer"))
    connection = await connect(SshAddress("lab"))
    running = asyncio.create_task(connection.run(["sleep", "60"]))
    await asyncio.sleep(0.5)
    outer.drop_connections()
    with pytest.raises(UnreachableError):
        await running
    assert await hello(SshAddress("lab")) == "hello"
    server.kill()
    with pytest.raises(UnreachableError, match=rf"127.0.0.1:{server.port} could not be reached through 127.0.0.1"):
        await connect(SshAddress("lab", name="anew"))
    await connection.close()


@pytest.mark.slow
async def test_a_proxy_command_carries_the_connection_and_ends_with_it(own_sshd: StartSshd, home: Path) -> None:
    server = own_sshd(environment=QUICK)
    program = home / "carry.py"
    program.write_text(
        "import os, socket, sys, threading\n"
        f"open({str(home / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "far = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def back():\n"
        "    try:\n"
        "        while data := far.recv(65536): os.write(1, data)\n"
        "    finally: os._exit(0)\n"
        "threading.Thread(target=back).start()\n"
        "while data := os.read(0, 65536): far.sendall(data)\n"
        "os._exit(0)\n"
    )
    configure(home, named(server, "lab", f"ProxyCommand {sys.executable} {program} %h %p"))
    connection = await connect(SshAddress("lab"))
    assert (await connection.run(["echo", "hello"])).stdout == b"hello\n"
    pid = int((home / "pid").read_text())
    server.drop_connections()
    with pytest.raises(UnreachableError):
        await connection.run(["sleep", "60"])
    assert await asyncio.to_thread(wait_until, lambda: not Path(f"/proc/{pid}").exists(), 10)
    configure(home, named(server, "lab2", "ProxyCommand exit 1"))
    with pytest.raises(UnreachableError, match="did not speak SSH"):
        await connect(SshAddress("lab2"))
    await connection.close()


async def test_a_server_is_reached_over_ipv6(own_sshd: StartSshd) -> None:
    if not has_ipv6():
        pytest.skip("no IPv6 on this machine")
    server = own_sshd(environment=QUICK, sshd_config={"ListenAddress": "::1"})
    with pytest.raises(HostKeyError, match=rf"\[::1\]:{server.port} presented .*ssh-keyscan"):
        await connect(SshAddress("::1", port=server.port))
    known = server.known_hosts.replace("[127.0.0.1]", "[::1]")
    server.known_hosts_file.write_text(known)
    fields = {"port": server.port, "key_file": str(server.key_file), "known_hosts_file": str(server.known_hosts_file)}
    assert await hello(SshAddress("::1", user="root", **fields)) == "hello"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def test_a_name_that_nobody_knows_and_a_port_without_a_server_are_unreachable() -> None:
    with pytest.raises(UnreachableError, match=r"name no-such-host\.invalid is not known"):
        await connect(SshAddress("no-such-host.invalid"))
    port = free_port()
    with pytest.raises(UnreachableError, match=f"127.0.0.1:{port} could not be reached: Connection refused"):
        await connect(SshAddress("127.0.0.1", port=port))
    assert issubclass(UnreachableError, ConnectionError)
    assert issubclass(UnreachableError, SessionflowError)


@contextmanager
def listener(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve connections, each in a thread, with something that is no sshd; give the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


async def test_something_else_that_listens_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_dial, "GREETINGS", 2)

    def other(connection: socket.socket) -> None:
        with closing(connection):
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with listener(other) as port, pytest.raises(UnreachableError, match=r"did not speak SSH.*2 times"):
        await connect(SshAddress("127.0.0.1", port=port))


async def test_a_server_that_accepts_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_dial, "GREETING_SECONDS", 0.5)
    with listener(lambda connection: time.sleep(30)) as port, pytest.raises(UnreachableError, match="1 time"):
        await connect(SshAddress("127.0.0.1", port=port))


async def test_a_busy_sshd_that_hangs_up_is_tried_again(own_sshd: StartSshd) -> None:
    """MaxStartups: with one connection that is not logged in, every other one is dropped."""
    server = own_sshd(environment=QUICK, sshd_config={"MaxStartups": "1:100:1"})
    with socket.create_connection((server.host, server.port)) as idle:
        assert idle.recv(4) == b"SSH-"
        asking = asyncio.create_task(hello(address(server)))
        await asyncio.sleep(0.7)
        assert not asking.done()
    assert await asking == "hello"


@pytest.mark.slow
async def test_a_connection_whose_other_side_is_silent_is_given_up(
    own_sshd: StartSshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_transport, "KEEPALIVE_SECONDS", 0.3)
    monkeypatch.setattr(ssh_transport, "SILENCE_SECONDS", 1.0)
    server = own_sshd(environment=QUICK)
    connection = await connect(address(server))
    channel = await connection.open(["cat"])
    await asyncio.sleep(2)  # idle, and answering
    assert (await connection.run(["echo", "alive"])).stdout == b"alive\n"
    stopped = server._connections()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(UnreachableError, match="did not answer"):
        await connection.run(["echo", "hello"])
    assert await channel.receive() == b""
    assert await hello(address(server)) == "hello"
    await channel.close()
    await connection.close()


def test_pauses_double_up_to_a_longest_and_differ() -> None:
    assert [pause(attempt, 0.2, 5.0, chance=1.0) for attempt in range(1, 8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert pause(3, 0.2, 5.0, chance=0.0) == 0.4
    assert pause(100_000, chance=1.0) == 30.0
    assert len({pause(5) for _ in range(10)}) > 1
