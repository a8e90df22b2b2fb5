"""Who the server is and who we are: host keys, keys, the agent, certificates."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks import ssh_host_keys
from tasks.ssh import SshAddress, connect
from tasks.ssh_config import Hop
from tests.sshd import Sshd
from trackers.errors import AuthenticationError, HostKeyError, LoginNeededError

StartSshd = Callable[..., Sshd]


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without keys and configuration, and no agent."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    return tmp_path


@pytest.fixture
def server(own_sshd: StartSshd) -> Sshd:
    return own_sshd()


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Callable[[Path], None]]:
    """A real agent; call it with a key to hand over."""
    path = home / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    while not path.exists():
        time.sleep(0.02)
    yield lambda key: execute("ssh-add", "-q", str(key))
    process.terminate()
    process.wait()


def address(server: Sshd, **fields: Any) -> SshAddress:
    known = {"user": server.account, "port": server.port, "key_file": str(server.key_file)}
    return SshAddress(server.host, **{**known, "known_hosts_file": str(server.known_hosts_file), **fields})


async def lets_in(where: SshAddress) -> bool:
    connection = await connect(where)
    await connection.close()
    return True


def execute(*command: str, **options: Any) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    assert done.returncode == 0, done.stderr


def key_pair(file: Path, *options: str, passphrase: str = "") -> Path:
    execute("ssh-keygen", "-q", "-N", passphrase, "-f", str(file), *options)
    return file


def fingerprint_of(key: Path) -> str:
    return subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True).stdout.split()[1]


def commands_of(error: HostKeyError) -> list[str]:
    """Return the commands that a message tells a person to run."""
    _, _, text = str(error).partition("only if they are the same, ")
    removal, _, addition = text.removeprefix("remove the old key: ").partition("add the key: ")
    if not addition:
        removal, _, addition = removal.partition(" and add the new one: ")
    return [command for command in (removal, addition) if command]


async def test_an_unknown_host_key_is_refused_with_its_fingerprint_and_the_command_that_adds_it(server: Sshd) -> None:
    server.known_hosts_file.write_text("")
    with pytest.raises(HostKeyError) as refused:
        await connect(address(server))
    assert fingerprint_of(server.known_hosts_file.with_name("host_key.pub")) in str(refused.value)
    assert server.known_hosts_file.read_text() == ""
    assert server.logins == 0
    (command,) = commands_of(refused.value)
    assert command.startswith(f"ssh-keyscan -p {server.port} -t ed25519 127.0.0.1 >> ")
    execute("sh", "-c", command)
    assert await lets_in(address(server))


async def test_the_command_that_adds_a_key_makes_the_folder_where_there_is_none(server: Sshd, home: Path) -> None:
    (home / ".ssh").rmdir()
    with pytest.raises(HostKeyError) as refused:
        await connect(address(server, known_hosts_file=""))
    (command,) = commands_of(refused.value)
    execute("sh", "-c", command)
    assert (home / ".ssh").stat().st_mode & 0o777 == 0o700
    assert await lets_in(address(server, known_hosts_file=""))


async def test_a_changed_host_key_is_refused_with_the_commands_that_replace_it(server: Sshd) -> None:
    assert await lets_in(address(server))
    before = server.known_hosts_file.read_text()
    server.change_host_key()
    with pytest.raises(HostKeyError, match=r"presented the host key .* but known is .*known_hosts, line 1") as refused:
        await connect(address(server))
    assert server.known_hosts_file.read_text() == before
    commands = commands_of(refused.value)
    assert len(commands) == 2
    for command in commands:
        execute("sh", "-c", command)
    assert await lets_in(address(server))


async def test_the_users_known_hosts_hashed_or_not_is_the_default(server: Sshd, home: Path) -> None:
    file = home / ".ssh" / "known_hosts"
    with pytest.raises(HostKeyError, match=r"\.ssh/known_hosts or /etc/ssh/ssh_known_hosts"):
        await connect(address(server, known_hosts_file=""))
    file.write_text(f"# ours\n\nother ssh-ed25519 AAAA\n{server.known_hosts}")
    execute("ssh-keygen", "-q", "-H", "-f", str(file))
    assert "127.0.0.1" not in file.read_text()
    assert await lets_in(address(server, known_hosts_file=""))
    server.change_host_key()
    with pytest.raises(HostKeyError, match="ssh-keygen -R") as refused:
        await connect(address(server, known_hosts_file=""))
    for command in commands_of(refused.value):
        execute("sh", "-c", command)
    assert await lets_in(address(server, known_hosts_file=""))


async def test_a_server_with_several_keys_shows_the_one_that_is_known(own_sshd: StartSshd, home: Path) -> None:
    keys = [key_pair(home / kind, "-t", kind) for kind in ("ed25519", "ecdsa", "rsa")]
    server = own_sshd(sshd_config={"HostKey": "\nHostKey ".join(map(str, keys))})
    for key in keys:
        kind, blob, *_ = key.with_suffix(".pub").read_text().split()
        server.known_hosts_file.write_text(f"[127.0.0.1]:{server.port} {kind} {blob}\n")
        assert await lets_in(address(server, name=kind))


HOP = Hop("cluster.example.org", 22, "me", "cluster.example.org", (), False, (), False, (), "")


@pytest.mark.parametrize(
    ("lines", "port", "verdict"),
    [
        ("cluster.example.org KEY", 22, "known"),
        ("Cluster.Example.ORG,10.0.0.1 KEY", 22, "known"),
        ("*.example.org KEY", 22, "known"),
        ("*.example.org,!cluster.* KEY", 22, "unknown"),
        ("cluster.example.org KEY", 2222, "known"),  # as OpenSSH: the same key without the port
        ("[cluster.example.org]:2222 KEY", 2222, "known"),
        ("[cluster.example.org]:2222 KEY", 22, "unknown"),
        ("[cluster.example.org]:* KEY", 2222, "known"),
        ("@revoked cluster.example.org KEY\ncluster.example.org KEY", 22, "revoked"),
        ("@cert-authority *.example.org KEY", 22, "unknown"),
        ("cluster.example.org ssh-ed25519 b3RoZXI=", 22, "changed"),
        ("cluster.example.org ssh-ed25519 b3RoZXI=\ncluster.example.org KEY", 22, "known"),
        ("#cluster.example.org KEY\n|1|bad|hash KEY\ncluster.example.org ssh-ed25519 ?\nrubbish", 22, "unknown"),
    ],
)
def test_known_hosts_mean_what_they_mean_to_openssh(tmp_path: Path, lines: str, port: int, verdict: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(lines.replace("KEY", "ssh-ed25519 a2V5 comment"))
    known_as = HOP.host if port == 22 else f"[{HOP.host}]:{port}"
    files = (file, tmp_path / "missing")
    hop = replace(HOP, port=port, known_as=known_as, known_hosts_files=files)
    words = {"unknown": "is not in", "changed": "but known is", "revoked": "marks as revoked"}
    if verdict == "known":
        ssh_host_keys.check(hop, "ssh-ed25519", b"key", direct=True)
        return
    with pytest.raises(HostKeyError, match=words[verdict]):
        ssh_host_keys.check(hop, "ssh-ed25519", b"key", direct=True)


async def test_the_homes_own_keys_are_offered(server: Sshd, home: Path) -> None:
    with pytest.raises(AuthenticationError, match=r"offered: nothing.*the server accepts publickey"):
        await connect(address(server, key_file=""))
    for kind in ("rsa", "ecdsa", "ed25519"):
        key = key_pair(home / ".ssh" / f"id_{kind}", "-t", kind)
        server.authorize(key)
        assert await lets_in(address(server, key_file="", name=kind))
        key.unlink()


async def test_a_key_that_is_refused_is_named(server: Sshd, home: Path) -> None:
    key = key_pair(home / "mine")
    with pytest.raises(AuthenticationError, match=rf"root@127\.0\.0\.1:{server.port} .*offered: key {key}") as refused:
        await connect(address(server, key_file=str(key)))
    assert not isinstance(refused.value, LoginNeededError)


async def test_a_named_key_that_is_not_there_is_said(server: Sshd, home: Path) -> None:
    with pytest.raises(AuthenticationError, match=f"{home}/mine was not tried: it is not there"):
        await connect(address(server, key_file=str(home / "mine")))


async def test_an_encrypted_key_wants_an_agent(
    server: Sshd, home: Path, agent: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_pair(home / "mine", passphrase="secret")
    server.authorize(key)
    with pytest.raises(AuthenticationError, match=f"run `ssh-add {key}`"):
        await connect(address(server, key_file=str(key)))
    execute("ssh-keygen", "-q", "-p", "-P", "secret", "-N", "", "-f", str(key))
    agent(key)
    execute("ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(key))
    assert await lets_in(address(server, key_file=str(key)))
    assert await lets_in(address(server, key_file=f"{key}.pub", name="by its public half"))
    assert await lets_in(address(server, key_file="", name="by the agent alone"))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(home / "gone"))
    with pytest.raises(AuthenticationError, match="ssh-add"):
        await connect(address(server, key_file=str(key), name="without"))


async def test_certificates_are_offered_from_beside_the_key_from_the_config_and_by_the_agent(
    server: Sshd, home: Path, agent: Callable[[Path], None]
) -> None:
    key = server.certificate(600)
    assert await lets_in(address(server, key_file=str(key)))
    certificate = key.with_name(f"{key.name}-cert.pub").rename(home / "certificate")
    with pytest.raises(AuthenticationError):
        await connect(address(server, key_file=str(key), name="without"))
    (home / ".ssh" / "config").write_text(f"Host 127.0.0.1\n  CertificateFile {certificate}\n")
    assert await lets_in(address(server, key_file=str(key), name="from the config"))
    (home / ".ssh" / "config").unlink()
    certificate.rename(key.with_name(f"{key.name}-cert.pub"))
    agent(key)
    key.with_name(f"{key.name}-cert.pub").unlink()
    assert await lets_in(address(server, key_file="", name="by the agent"))


async def test_a_certificate_that_is_over_asks_for_a_person(server: Sshd) -> None:
    key = server.certificate(2)
    await asyncio.sleep(2.5)
    with pytest.raises(LoginNeededError, match=r"certificate .* is over.*Get a new certificate"):
        await connect(address(server, key_file=str(key)))
    server.certificate(600)
    assert await lets_in(address(server, key_file=str(key)))


async def test_a_connection_outlives_its_certificate(server: Sshd) -> None:
    connection = await connect(address(server, key_file=str(server.certificate(2))))
    await asyncio.sleep(2.5)
    assert (await connection.run(["echo", "still"])).stdout == b"still\n"
    server.drop_connections()
    with pytest.raises(ConnectionError):
        await connection.run(["true"])
    with pytest.raises(LoginNeededError):
        await connect(address(server, key_file=str(server.key_file.with_name("certified"))))
    await connection.close()


async def test_a_server_that_let_us_in_before_and_does_not_now_asks_for_a_person(server: Sshd) -> None:
    connection = await connect(address(server))
    server.drop_connections()
    server.known_hosts_file.with_name("authorized_keys").write_text("")
    with pytest.raises(ConnectionError):
        await connection.run(["true"])
    with pytest.raises(LoginNeededError, match="let this account in before"):
        await connect(address(server))
    await connection.close()


async def test_a_server_that_listens_to_few_keys_is_given_the_right_one_first(
    own_sshd: StartSshd, home: Path, agent: Callable[[Path], None]
) -> None:
    server = own_sshd(sshd_config={"MaxAuthTries": 2})
    for number in range(5):
        agent(key_pair(home / f"other-{number}"))
    assert await lets_in(address(server))
    with pytest.raises(AuthenticationError, match="listens to no more keys: give the right one"):
        await connect(address(server, key_file=""))


async def test_a_server_that_wants_more_than_a_key_says_what_to_do(own_sshd: StartSshd) -> None:
    server = own_sshd(authentication="publickey,keyboard-interactive")
    with pytest.raises(
        AuthenticationError, match=r"accepted the key and wants keyboard-interactive.*sessionflow server login NAME"
    ):
        await connect(address(server))
    server = own_sshd(authentication="keyboard-interactive")
    with pytest.raises(AuthenticationError, match=r"accepts keyboard-interactive.*sessionflow server login NAME"):
        await connect(address(server))


async def test_rubbish_as_a_key_file_is_said(server: Sshd, home: Path) -> None:
    (home / "mine").write_text("rubbish")
    with pytest.raises(AuthenticationError, match="mine was not tried: it is no private key that can be read"):
        await connect(address(server, key_file=str(home / "mine")))
    assert os.environ["HOME"] == str(home)
