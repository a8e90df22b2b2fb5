"""One connection to a real sshd, shared by many; what is run over it, and what ends it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tasks import ssh
from tasks.ssh import Connection, SshAddress, connect
from tests.sshd import Sshd
from trackers.errors import CommandTimeoutError, UnreachableError

QUICK = {"SHLVL": "1"}  # bash then leaves this account's .bashrc out


StartSshd = Callable[..., Sshd]


@pytest.fixture
def server(own_sshd: StartSshd) -> Sshd:
    return own_sshd(environment=QUICK)


@pytest.fixture
async def connection(server: Sshd) -> AsyncIterator[Connection]:
    connection = await connect(address(server))
    yield connection
    await connection.close()


def address(server: Sshd, **fields: Any) -> SshAddress:
    known = {"user": server.account, "port": server.port, "key_file": str(server.key_file)}
    return SshAddress(server.host, **{**known, "known_hosts_file": str(server.known_hosts_file), **fields})


async def output(connection: Connection, *command: str) -> str:
    return (await connection.run(command)).stdout.decode().strip()


async def fails(connection: Connection, *command: str) -> bool:
    return (await connection.run(command)).exit_code != 0


async def eventually(ask: Callable[[], Awaitable[Any]]) -> Any:
    for _ in range(200):
        if found := await ask():
            return found
        await asyncio.sleep(0.05)
    raise AssertionError("it did not become true")


async def test_words_reach_the_command_as_they_are(connection: Connection) -> None:
    words = ["a  b", "it's", "$HOME", "`id`", "ünï", "*", "", "-n", "\\", '"']
    done = await connection.run(["printf", "%s|", *words])
    assert done.stdout.decode() == "|".join(words) + "|"
    assert (done.exit_code, done.stderr) == (0, b"")


async def test_input_output_errors_and_exit_code_are_those_of_the_command(connection: Connection) -> None:
    done = await connection.run(["sh", "-c", "cat; echo no >&2; exit 3"], input=b"\x00\xff\n")
    assert (done.stdout, done.stderr, done.exit_code) == (b"\x00\xff\n", b"no\n", 3)
    assert (await connection.run(["sh", "-c", "kill -9 $$"])).exit_code == -1


async def test_megabytes_go_both_ways_at_once(connection: Connection) -> None:
    data = bytes(range(256)) * 40_000
    assert (await connection.run(["cat"], input=data)).stdout == data
    assert (await connection.run(["true"], input=data)).exit_code == 0  # it reads none of it


async def test_a_command_that_does_not_end_in_time_is_ended_and_said(own_sshd: StartSshd) -> None:
    server = own_sshd(environment=QUICK, account="nobody")
    connection = await connect(address(server))
    with pytest.raises(CommandTimeoutError, match="almost there"):
        await connection.run(["sh", "-c", "echo $$ > pid; echo almost there; sleep 62"], timeout=0.5)
    pid = (await connection.run(["cat", "pid"])).stdout.strip().decode()
    await eventually(lambda: fails(connection, "kill", "-0", pid))
    await connection.close()


async def test_a_cancelled_run_ends_its_command(own_sshd: StartSshd) -> None:
    server = own_sshd(environment=QUICK, account="nobody")
    connection = await connect(address(server))
    run = asyncio.create_task(connection.run(["sh", "-c", "echo $$ > pid; sleep 62"]))
    pid = await eventually(lambda: output(connection, "cat", "pid"))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await eventually(lambda: fails(connection, "kill", "-0", pid))
    await connection.close()


async def test_a_conversation_goes_line_by_line(connection: Connection) -> None:
    channel = await connection.open(["cat"])
    for line in (b"one\n", b"x" * 3_000_000 + b"\n", b"\n"):
        await channel.send(line)
        assert await channel.receive() == line
    await channel.send(b"two\nthree\n")
    assert [await channel.receive(), await channel.receive()] == [b"two\n", b"three\n"]
    await channel.close()
    assert await channel.receive() == b""
    with pytest.raises(ConnectionError):
        await channel.send(b"four\n")


async def test_a_receive_that_is_cancelled_loses_no_line(connection: Connection) -> None:
    channel = await connection.open(["cat"])
    for number in range(50):
        receiving = asyncio.create_task(channel.receive())
        await asyncio.sleep(0)
        await channel.send(b"%d\n" % number)
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        line = b"" if receiving.cancelled() else receiving.result()
        assert (line or await channel.receive()) == b"%d\n" % number
    await channel.close()


async def test_a_conversation_that_ends_says_why(connection: Connection) -> None:
    channel = await connection.open(["sh", "-c", "echo no such module >&2; exit 1"])
    assert await channel.receive() == b""
    with pytest.raises(ConnectionError, match=r"exit code 1.*no such module"):
        await channel.send(b"hello\n")
    await channel.close()


async def test_all_who_ask_share_one_connection(server: Sshd) -> None:
    """Fifty coroutines in each of four threads with event loops of their own."""
    errors: list[BaseException] = []

    async def use() -> None:
        connection = await connect(address(server))
        assert (await connection.run(["echo", "hello"])).stdout == b"hello\n"
        await connection.close()

    async def fifty() -> None:
        await asyncio.gather(*(use() for _ in range(50)))

    def thread() -> None:
        try:
            asyncio.run(fifty())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=thread) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        await asyncio.to_thread(each.join)
    assert not errors
    assert server.logins == 1


async def test_two_places_on_the_server_are_enough(own_sshd: StartSshd) -> None:
    server = own_sshd(environment=QUICK, sshd_config={"MaxSessions": 2})
    connection = await connect(address(server))
    channel = await connection.open(["cat"])
    done = await asyncio.gather(*(connection.run(["echo", str(number)]) for number in range(40)))
    assert [int(each.stdout) for each in done] == list(range(40))
    await channel.send(b"still here\n")
    assert await channel.receive() == b"still here\n"
    await channel.close()
    await connection.close()
    assert server.logins == 1


async def test_a_connection_without_users_is_closed_after_a_while(server: Sshd, monkeypatch: Any) -> None:
    monkeypatch.setattr(ssh, "UNUSED_SECONDS", 0.2)
    for _ in range(3):
        connection = await connect(address(server))
        await connection.run(["true"])
        await connection.close()
    assert server.logins == 1
    await asyncio.sleep(0.5)
    assert not server._connections()
    connection = await connect(address(server))
    await connection.run(["true"])
    await connection.close()
    assert server.logins == 2


async def test_a_lost_connection_is_an_error_and_the_next_one_works(server: Sshd) -> None:
    connection = await connect(address(server))
    channel = await connection.open(["cat"])
    run = asyncio.create_task(connection.run(["sleep", "60"]))
    await asyncio.sleep(0.3)
    server.drop_connections()
    with pytest.raises(UnreachableError, match="was lost"):
        await run
    assert await channel.receive() == b""
    with pytest.raises(ConnectionError):
        await channel.send(b"hello\n")
    with pytest.raises(UnreachableError):
        await connection.run(["true"])
    again = await connect(address(server))
    assert (await again.run(["echo", "back"])).stdout == b"back\n"
    await again.close()
    await connection.close()
