"""Many callers on one connection, while it is cut again and again: whoever retries gets every answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tasks.backoff import pause
from tasks.ssh import SshAddress, connect
from tests.sshd import Sshd
from trackers.errors import UnreachableError

StartSshd = Callable[..., Sshd]
QUICK = {"SHLVL": "1"}  # bash then leaves this account's .bashrc out
pytestmark = pytest.mark.slow


def address(server: Sshd) -> SshAddress:
    files = {"key_file": str(server.key_file), "known_hosts_file": str(server.known_hosts_file)}
    return SshAddress(server.host, user=server.account, port=server.port, **files)


def in_threads(count: int, work: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    """Run coroutines in threads, each with an event loop of its own; the first error fails the test."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            asyncio.run(work(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@contextmanager
def every(seconds: float, call: Callable[[], object]) -> Iterator[None]:
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds):
            call()

    thread = threading.Thread(target=repeat)
    thread.start()
    yield
    over.set()
    thread.join()


def test_thousands_of_commands_of_many_threads_leave_the_connection_whole(own_sshd: StartSshd) -> None:
    """Small ones, whose input is left unread or whose output is long: what ends a connection that is used naively."""
    server = own_sshd(environment=QUICK)
    commands = (["true"], ["head", "-c", "10"], ["head", "-c", "100000", "/dev/zero"], ["false"], ["cat"])

    async def one(number: int) -> None:
        command = commands[number % len(commands)]
        connection = await connect(address(server))
        done = await connection.run(command, input=b"x" * (number % 7) * 3000, timeout=100)
        assert done.exit_code == (command == ["false"])
        if command == ["cat"]:
            assert len(done.stdout) == number % 7 * 3000
        await connection.close()

    async def many(_thread: int) -> None:
        for _ in range(2):
            await asyncio.gather(*(one(number) for number in range(200)))

    in_threads(8, many)
    assert server.logins == 1
    assert server.channels == 3200
    assert "nonexistent" not in server.log.read_text()


async def answered(server: Sshd, number: int) -> int:
    """Ask until there is an answer; return how many times that took."""
    for attempt in range(1, 100):
        try:
            connection = await connect(address(server))
            try:
                done = await connection.run(["sh", "-c", f"sleep 0.0{number % 10}; echo {number}"], timeout=20)
            finally:
                await connection.close()
        except UnreachableError:
            await asyncio.sleep(pause(attempt, longest=2.0))
            continue
        assert done.stdout == b"%d\n" % number
        return attempt
    raise AssertionError("no answer")


def test_whoever_retries_gets_every_answer_while_connections_are_dropped_every_two_seconds(own_sshd: StartSshd) -> None:
    server = own_sshd(environment=QUICK)
    attempts: list[int] = []

    async def many(thread: int) -> None:
        for lap in range(20):
            wave = (answered(server, 1000 * thread + 20 * lap + number) for number in range(20))
            attempts.extend(await asyncio.gather(*wave))
            await asyncio.sleep(0.5)

    with every(2.0, server.drop_connections):
        in_threads(3, many)
    assert len(attempts) == 1200
    assert server.logins > 3


def test_whoever_retries_gets_every_answer_while_sshd_is_killed_and_restarted(own_sshd: StartSshd) -> None:
    server = own_sshd(environment=QUICK)

    def out_for_a_second() -> None:
        server.kill()
        threading.Event().wait(1.0)
        server.start()

    async def many(thread: int) -> None:
        for number in range(200):
            await answered(server, 1000 * thread + number)
            await asyncio.sleep(0.02)

    with every(2.0, out_for_a_second):
        in_threads(3, many)


def test_a_conversation_that_is_opened_anew_goes_on_while_connections_are_dropped(own_sshd: StartSshd) -> None:
    server = own_sshd(environment=QUICK)

    async def talk(_thread: int) -> None:
        number, failures = 0, 0
        while number < 3000:
            try:
                connection = await connect(address(server))
                channel = await connection.open(["cat"])
                while number < 3000:
                    await channel.send(b"%d\n" % number)
                    if (line := await channel.receive()) == b"":
                        raise UnreachableError("over")
                    assert line == b"%d\n" % number
                    number += 1
                    await asyncio.sleep(0.003)
                await channel.close()
            except UnreachableError:
                failures += 1
                await asyncio.sleep(pause(1))
            finally:
                await connection.close()
        assert failures > 1

    with every(2.0, server.drop_connections):
        in_threads(2, talk)
