"""Logging in: with keys and certificates alone, or with a person who answers the server's questions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import paramiko

from tasks.ssh_config import Hop
from tasks.ssh_identities import Wallet, wallet
from tasks.ssh_transport import DEAD, Transport
from trackers.errors import AuthenticationError, LoginNeededError, SessionflowError, UnreachableError

INTERACTIVE, PASSWORD, KEY = "keyboard-interactive", "password", "publickey"
TRIES = 3
PERSON_SECONDS = 600.0  # for a person's answers; the server's own limit is shorter as a rule
Ask = Callable[[str, list[tuple[str, bool]]], list[str]]


def log_in_with_keys(transport: Transport, hop: Hop) -> None:
    """Offer keys and certificates until one is accepted.

    Raises:
        AuthenticationError: none is, or more than a key is wanted.
        LoginNeededError: none is, and a certificate's time is over.
        UnreachableError: the connection was lost.
    """
    with wallet(hop) as offered:
        tried, more = _offer_keys(transport, hop, offered)
    if not transport.is_authenticated():
        raise _refusal(transport, hop, offered, tried, more)


def log_in_with_person(transport: Transport, hop: Hop, ask: Ask) -> None:
    """Offer keys, and then let a person answer what the server asks: passwords, codes, also one after the other.

    Args:
        transport: connected, its host key checked.
        hop: who logs in where.
        ask: shows a text and asks questions, each with whether its answer may be seen; returns the answers.

    Raises:
        AuthenticationError: the server did not accept the answers.
        UnreachableError: the connection was lost.
    """
    transport.auth_timeout = PERSON_SECONDS
    with wallet(hop) as offered:
        tried, wanted = _offer_keys(transport, hop, offered)
        if not transport.is_authenticated() and transport.is_active():
            wanted = wanted or _accepted_methods(transport, hop)
            if notice := transport.get_banner():
                ask(notice.decode(errors="replace").strip(), [])
        failures = 0
        while not transport.is_authenticated() and transport.is_active() and failures < TRIES:
            method = next((method for method in (INTERACTIVE, PASSWORD) if method in wanted), "")
            if not method:
                break
            try:
                more = _ask_for(method, transport, hop, ask)
            except paramiko.BadAuthenticationType as error:
                wanted = [each for each in error.allowed_types if each != method]
            except paramiko.AuthenticationException:
                failures += 1
                if transport.is_active():
                    ask("That was not accepted.", [])
            else:
                wanted = more or wanted
                if KEY in more:  # the password came first, and the key is wanted as well
                    _, wanted = _offer_keys(transport, hop, offered)
    if not transport.is_authenticated():
        raise _refusal(transport, hop, offered, tried, wanted, asked=True)


def _offer_keys(transport: Transport, hop: Hop, offered: Wallet) -> tuple[list[str], list[str]]:
    """Offer all that there is.

    Returns:
        what was tried, and the methods that the server wants besides a key that it has accepted.
    """
    tried: list[str] = []
    for identity in offered.identities:
        more: list[str] = []
        tried.append(identity.label)
        with suppress(paramiko.AuthenticationException):
            more = transport.auth_publickey(hop.user, identity.key)
        if transport.is_authenticated() or not transport.is_active():
            break
        if more and KEY not in more:
            return tried, more
    return tried, []


def _ask_for(method: str, transport: Transport, hop: Hop, ask: Ask) -> list[str]:
    if method == PASSWORD:
        (password,) = ask("", [(f"{hop.user}@{hop.host}'s password: ", False)])
        return transport.auth_password(hop.user, password, fallback=False)

    def answer(title: str, instructions: str, questions: list[tuple[str, bool]]) -> list[str]:
        text = "\n".join(part for part in (title, instructions) if part)
        return ask(text, [(question, bool(seen)) for question, seen in questions]) if text or questions else []

    return transport.auth_interactive(hop.user, answer)


def _refusal(
    transport: Transport, hop: Hop, offered: Wallet, tried: list[str], more: list[str], *, asked: bool = False
) -> SessionflowError:
    account = f"{hop.user}@{hop.place}"
    too_many = "too many" in transport.last_word.lower()
    if not transport.is_active() and not too_many:
        why = transport.last_word or "no reason was given"
        return UnreachableError(f"{account} ended the connection while logging in: {why}.")
    parts = [
        f"{account} does not let this account in",
        f"offered: {', '.join(tried) or 'nothing, because there is no key'}",
        *offered.notes,
        *[f"{certificate} is over" for certificate in offered.expired],
    ]
    if asked:
        return AuthenticationError(f"{'; '.join([*parts, 'the answers were not accepted'])}. Nothing was changed.")
    accepts = more or ([] if too_many else _accepted_methods(transport, hop))
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
    if {INTERACTIVE, PASSWORD} & set(accepts):
        parts.append("where the site wants one-time passwords, set interactive_login in the server's description")
        return AuthenticationError(f"{'; '.join(parts)}. Nothing was changed. Then: sessionflow server login NAME")
    return AuthenticationError(f"{'; '.join(parts)}. Nothing was changed.")


def _accepted_methods(transport: Transport, hop: Hop) -> list[str]:
    try:
        transport.auth_none(hop.user)
    except paramiko.BadAuthenticationType as error:
        return list(error.allowed_types)
    except DEAD:
        pass
    return []
