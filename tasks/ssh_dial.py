"""The way to a server: connect, check the host key, log in, and the same again through every jump host."""

from __future__ import annotations

import itertools
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

import paramiko

from tasks import ssh_host_keys
from tasks.backoff import pause
from tasks.ssh_authentication import log_in_with_keys
from tasks.ssh_config import Hop
from tasks.ssh_transport import DEAD, Transport
from trackers.errors import HostKeyError, SessionflowError, UnreachableError

CONNECT_SECONDS = 15.0  # for one TCP connection
GREETING_SECONDS = 15.0  # for the server's first words, and again for the key exchange
ANSWER_SECONDS = 30.0  # for the answer to each key
GOODBYE_SECONDS = 2.0  # for a ProxyCommand to end after its TERM
GREETINGS = 6  # a busy sshd hangs up on some of many (MaxStartups): worth a few tries at once


def dial(hops: Sequence[Hop], log_in: Callable[[Transport, Hop], None] = log_in_with_keys) -> Transport:
    """Connect to the last of `hops` through those before it, and log in; this blocks.

    Args:
        hops: at least one.
        log_in: how to log in to each of them.

    Raises:
        UnreachableError: one of them could not be reached.
        HostKeyError: one of them has an unknown or changed key.
        AuthenticationError, LoginNeededError: one of them does not let the account in.
    """
    transport: Transport | None = None
    try:
        for hop in hops:
            transport = _greeted(hop, transport)
            log_in(transport, hop)
            transport.keep_alive()
    except BaseException:
        if transport:
            transport.close()
        raise
    assert transport  # noqa: S101 - there was a hop
    return transport


def _greeted(hop: Hop, over: Transport | None) -> Transport:
    """Connect, exchange keys and check who it is."""
    for attempt in itertools.count(1):
        started = time.monotonic()
        sock, below = _reach(hop, over)
        transport = Transport(sock, below)
        transport.banner_timeout = transport.handshake_timeout = GREETING_SECONDS
        transport.auth_timeout = ANSWER_SECONDS
        _prefer_known_kinds(transport, hop)
        try:
            transport.start_client()
            break
        except paramiko.ssh_exception.IncompatiblePeer as error:
            transport.close()
            raise SessionflowError(
                f"{hop.place} and this program share no SSH algorithm: {error}. The server's SSH is too old."
            ) from error
        except DEAD as error:
            transport.close()
            sock.close()
            slow = time.monotonic() - started >= GREETING_SECONDS
            if attempt == GREETINGS or slow:
                why = transport.last_word or str(error) or type(error).__name__
                raise UnreachableError(
                    f"{hop.place} took the connection and then did not speak SSH ({why}), {attempt} "
                    f"{'time' if attempt == 1 else 'times'}. It is busy, or something else listens there."
                ) from error
            time.sleep(pause(attempt, longest=3.0))
    key = transport.get_remote_server_key()
    try:
        ssh_host_keys.check(hop, key.get_name(), key.asbytes(), direct=over is None and not hop.proxy_command)
    except HostKeyError:
        transport.close()
        raise
    return transport


def _prefer_known_kinds(transport: Transport, hop: Hop) -> None:
    """Ask for the kinds of host key that are known first; a server has several."""
    known = {key.kind for key in ssh_host_keys.of_host(hop)}
    known |= {"rsa-sha2-512", "rsa-sha2-256"} if "ssh-rsa" in known else set()
    options = transport.get_security_options()
    options.key_types = tuple(sorted(options.key_types, key=lambda kind: kind not in known))


def _reach(hop: Hop, over: Transport | None) -> tuple[socket.socket | paramiko.Channel, Callable[[], None] | None]:
    """Return what carries the connection, and how to end what that rests on."""
    if hop.proxy_command:
        return _through_program(hop)
    try:
        if over is None:
            return socket.create_connection((hop.host, hop.port), CONNECT_SECONDS), None
        return over.open_channel("direct-tcpip", (hop.host, hop.port), ("", 0), timeout=CONNECT_SECONDS), over.close
    except socket.gaierror as error:
        raise UnreachableError(
            f"The name {hop.host} is not known ({error.strerror}): no network, or a wrong host."
        ) from error
    except UnicodeError as error:
        raise UnreachableError(f"{hop.host!r} cannot be a host's name: {error}.") from error
    except DEAD as error:
        way = "" if over is None else f" through {over.getpeername()[0]}"
        raise UnreachableError(f"{hop.place} could not be reached{way}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:g} s"
    if isinstance(error, paramiko.ChannelException):
        return str(error.text)
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _through_program(hop: Hop) -> tuple[socket.socket, Callable[[], None]]:
    """Connect through ProxyCommand; a socket pair, unlike paramiko's pipes, says when the program has ended."""
    if not hasattr(socket, "AF_UNIX"):
        raise UnreachableError(f"{hop.place}: ProxyCommand works on Linux and macOS only.")
    ours, theirs = socket.socketpair()
    command = f"exec {hop.proxy_command.replace('%%', '%')}"
    with theirs:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end() -> None:
        process.terminate()
        try:
            process.wait(GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    return ours, end
