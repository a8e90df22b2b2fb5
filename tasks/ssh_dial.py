"""The way to a server: connect, check the host key, log in, and the same again through every jump host."""

from __future__ import annotations

import itertools
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import paramiko

from tasks import ssh_host_keys
from tasks.backoff import pause
from tasks.ssh_config import Hop
from tasks.ssh_identities import Wallet, wallet
from tasks.ssh_transport import Transport
from trackers.errors import AuthenticationError, HostKeyError, LoginNeededError, SessionflowError, UnreachableError

CONNECT_SECONDS = 15.0  # for one TCP connection
GREETING_SECONDS = 15.0  # for the server's first words, and again for the key exchange
ANSWER_SECONDS = 30.0  # for the answer to each key
GREETINGS = 6  # a busy sshd hangs up on some of many (MaxStartups): worth a few tries at once
LogIn = Callable[[Transport, Hop], None]


def dial(hops: Sequence[Hop], log_in: LogIn | None = None) -> Transport:
    """Connect to the last of `hops` through those before it, and log in; this blocks.

    Args:
        hops: at least one.
        log_in: how to log in everywhere; with keys and certificates unless given.

    Raises:
        UnreachableError: one of them could not be reached.
        HostKeyError: one of them has an unknown or changed key.
        AuthenticationError, LoginNeededError: one of them does not let the account in.
    """
    transport: Transport | None = None
    try:
        for hop in hops:
            transport = _greeted(hop, transport)
            (log_in or log_in_with_keys)(transport, hop)
            transport.keep_alive()
    except BaseException:
        if transport:
            transport.close()
        raise
    assert transport  # noqa: S101 - there was a hop
    return transport


def log_in_with_keys(transport: Transport, hop: Hop) -> None:
    """Offer keys and certificates until one is accepted.

    Raises:
        AuthenticationError: none is, or more than a key is wanted.
        LoginNeededError: none is, and a certificate's time is over.
        UnreachableError: the connection was lost.
    """
    with wallet(hop) as offered:
        tried: list[str] = []
        more: list[str] = []
        for identity in offered.identities:
            tried.append(identity.label)
            with suppress(paramiko.BadAuthenticationType, paramiko.AuthenticationException):
                more = transport.auth_publickey(hop.user, identity.key)
            if transport.is_authenticated():
                return
            if not transport.is_active():
                break
            if more and "publickey" not in more:  # accepted, and something else is wanted as well
                break
        raise _refusal(transport, hop, offered, tried, more)


def _refusal(transport: Transport, hop: Hop, offered: Wallet, tried: list[str], more: list[str]) -> SessionflowError:
    account = f"{hop.user}@{hop.place}"
    too_many = "too many" in transport.last_word.lower()
    if not transport.is_active() and not too_many:
        return UnreachableError(
            f"{account} ended the connection while logging in: {transport.last_word or 'no reason given'}."
        )
    accepts = more or ([] if too_many else _accepted_methods(transport, hop))
    by_hand = bool({"keyboard-interactive", "password"} & set(accepts))
    parts = [
        f"{account} does not let this account in",
        f"offered: {', '.join(tried) or 'nothing, because there is no key'}",
        *offered.notes,
        *[f"{certificate} is over" for certificate in offered.expired],
    ]
    if too_many:
        parts.append("the server listens to no more keys: give the right one as the server's key file")
    elif more:
        parts.append(f"the server accepted the key and wants {' or '.join(more)} as well")
    elif accepts:
        parts.append(f"the server accepts {', '.join(accepts)}")
    if offered.expired:
        return LoginNeededError(
            f"{'; '.join(parts)}. Get a new certificate, as your site says how; what waits continues then by itself."
        )
    if by_hand:
        parts.append("where the site wants one-time passwords, set `interactive` and run `sessionflow server login`")
    return AuthenticationError(f"{'; '.join(parts)}. Nothing was changed.")


def _accepted_methods(transport: Transport, hop: Hop) -> list[str]:
    try:
        transport.auth_none(hop.user)
    except paramiko.BadAuthenticationType as error:
        return list(error.allowed_types)
    except (paramiko.SSHException, OSError, EOFError):
        pass
    return []


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
        except (paramiko.SSHException, OSError, EOFError) as error:
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
    except (OSError, EOFError, paramiko.SSHException) as error:
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
        with suppress(OSError):
            process.terminate()
        process.wait()

    return ours, end
