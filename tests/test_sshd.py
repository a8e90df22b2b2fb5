"""The test server's sshd does what tests of connections rely on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from pwd import getpwnam

import paramiko
import pytest

from tests.daemon import wait_until
from tests.sshd import Sshd, make_key

StartSshd = Callable[..., Sshd]


def ssh(sshd: Sshd, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*sshd.ssh, *words], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def ssh_with(sshd: Sshd, key: Path) -> subprocess.CompletedProcess[str]:
    """Try to log in with one key only."""
    options = ["-i", str(key), "-p", str(sshd.port), "-o", f"UserKnownHostsFile={sshd.known_hosts_file}"]
    command = ["ssh", "-F", "none", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", *options]
    return subprocess.run(
        [*command, f"{sshd.account}@{sshd.host}", "true"], check=False, capture_output=True, text=True
    )


def talk(sshd: Sshd, *answers: str) -> list[str]:
    """Log in by keyboard-interactive; return the questions. Raises what paramiko raises."""
    asked: list[str] = []

    def answer(title: str, instructions: str, questions: list[tuple[str, bool]]) -> list[str]:
        asked.extend(question for question, _ in questions)
        return list(answers[: len(questions)])

    transport = paramiko.Transport((sshd.host, sshd.port))
    try:
        transport.start_client()
        transport.auth_interactive(sshd.account, answer)
        channel = transport.open_session()
        channel.exec_command("exit 7")
        assert channel.recv_exit_status() == 7
    finally:
        transport.close()
    return asked


def test_a_login_has_the_environment_that_was_asked_for(own_sshd: StartSshd) -> None:
    sshd = own_sshd(environment={"GREETING": "two words"})
    assert ssh(sshd, "echo", "$GREETING").stdout == "two words\n"
    assert (sshd.logins, sshd.channels) == (1, 1)


def test_it_comes_back_on_the_same_port_after_kill_9(own_sshd: StartSshd) -> None:
    sshd = own_sshd()
    sshd.kill()
    assert ssh(sshd, "true").returncode == 255
    sshd.start()
    assert ssh(sshd, "true").returncode == 0


def test_a_stopped_server_leaves_its_connections(own_sshd: StartSshd) -> None:
    sshd = own_sshd()
    with subprocess.Popen([*sshd.ssh, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin
        assert client.stdout
        client.stdin.write("before\n")
        client.stdin.flush()
        assert client.stdout.readline() == "before\n"
        sshd.stop()
        client.stdin.write("after\n")
        client.stdin.flush()
        assert client.stdout.readline() == "after\n"
        assert sshd.drop_connections()
        assert client.wait(10) == 255


@pytest.mark.parametrize("account", ["root", "nobody"])
def test_dropping_connections_leaves_the_server(own_sshd: StartSshd, account: str) -> None:
    sshd = own_sshd(account=account)
    with subprocess.Popen([*sshd.ssh, "echo here; exec sleep 60"], stdout=subprocess.PIPE) as client:
        assert client.stdout
        client.stdout.readline()
        assert sshd.drop_connections()
        assert client.wait(10) == 255
    assert ssh(sshd, "true").returncode == 0


def test_another_account_logs_in(own_sshd: StartSshd) -> None:
    sshd = own_sshd(account="nobody")
    assert ssh(sshd, "id -un; cd; touch here; ls").stdout.split() == ["nobody", "here"]
    assert getpwnam("nobody").pw_shell == "/usr/sbin/nologin"  # this machine's own is as it was


def test_a_further_key_is_let_in_once_it_is_authorized(own_sshd: StartSshd, tmp_path: Path) -> None:
    sshd = own_sshd()
    key = make_key(tmp_path / "second")
    assert "Permission denied" in ssh_with(sshd, key).stderr
    sshd.authorize(key)
    assert ssh_with(sshd, key).returncode == 0


@pytest.mark.slow
def test_a_certificate_lets_in_until_it_expires(own_sshd: StartSshd) -> None:
    sshd = own_sshd()
    key = sshd.certificate(seconds=3)
    assert ssh_with(sshd, key).returncode == 0
    time.sleep(4)
    assert "Permission denied" in ssh_with(sshd, key).stderr
    assert "expired" in sshd.log.read_text()


def test_a_changed_host_key_is_noticed(own_sshd: StartSshd) -> None:
    sshd = own_sshd()
    old = sshd.known_hosts
    sshd.change_host_key()
    assert sshd.known_hosts != old
    assert "IDENTIFICATION HAS CHANGED" in ssh(sshd, "true").stderr
    sshd.known_hosts_file.write_text(sshd.known_hosts)
    assert ssh(sshd, "true").returncode == 0


def test_max_sessions_limits_the_channels_of_a_connection(own_sshd: StartSshd) -> None:
    sshd = own_sshd(sshd_config={"MaxSessions": 2})
    transport = paramiko.Transport((sshd.host, sshd.port))
    try:
        transport.start_client()
        transport.auth_publickey("root", paramiko.Ed25519Key.from_private_key_file(str(sshd.key_file)))
        channels = [transport.open_session() for _ in range(2)]
        with pytest.raises(paramiko.ChannelException):
            transport.open_session()
        channels[0].close()
        opened = []

        def one_more() -> bool:
            with suppress(paramiko.ChannelException):
                opened.append(transport.open_session())
            return bool(opened)

        assert wait_until(one_more, 10)
    finally:
        transport.close()


def test_a_one_time_password_is_good_for_one_keyboard_interactive_login(own_sshd: StartSshd) -> None:
    sshd = own_sshd(authentication="keyboard-interactive")
    password = sshd.one_time_password()
    with pytest.raises(paramiko.AuthenticationException):
        talk(sshd, "wrong")
    assert talk(sshd, password) == ["Password: "]
    with pytest.raises(paramiko.AuthenticationException):
        talk(sshd, password)
    assert not (Path("/etc/pam.d") / "check").exists()


def test_a_key_and_a_one_time_password_can_both_be_asked_for(own_sshd: StartSshd) -> None:
    sshd = own_sshd(authentication="publickey,keyboard-interactive")
    transport = paramiko.Transport((sshd.host, sshd.port))
    try:
        transport.start_client()
        key = paramiko.Ed25519Key.from_private_key_file(str(sshd.key_file))
        assert transport.auth_publickey("root", key) == ["keyboard-interactive"]
        password = sshd.one_time_password()
        transport.auth_interactive("root", lambda *_: [password] if _[2] else [])
        assert transport.is_authenticated()
    finally:
        transport.close()


def test_a_password_login_takes_the_same_passwords(own_sshd: StartSshd) -> None:
    sshd = own_sshd(authentication="password")
    transport = paramiko.Transport((sshd.host, sshd.port))
    try:
        transport.start_client()
        transport.auth_password("root", sshd.one_time_password())
        assert transport.is_authenticated()
    finally:
        transport.close()
