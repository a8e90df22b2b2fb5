"""Which keys and certificates are offered to a server, and what is said when it takes none of them."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from paramiko.agent import Agent, AgentKey
from paramiko.pkey import PKey, PublicBlob

from tasks.ssh_config import Hop

PRIVATE_KEYS: tuple[type[PKey], ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
FOR_EVER = 2**64 - 1


@dataclass(frozen=True)
class Identity:
    """One thing to offer.

    Attributes:
        label: what messages call it.
        blob: the public key or certificate as it is sent.
    """

    label: str
    key: PKey
    blob: bytes


@dataclass
class Wallet:
    """All that can be offered to a server, best first.

    Attributes:
        notes: what cannot be offered, and why, for the message when nothing else is accepted.
        expired: certificates whose time is over.
    """

    identities: list[Identity] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    expired: list[str] = field(default_factory=list)

    def add(self, label: str, key: PKey) -> None:
        """Offer a key, unless it is offered already."""
        public = getattr(key, "public_blob", None)
        blob = public.key_blob if public else key.asbytes()
        if all(identity.blob != blob for identity in self.identities):
            self.identities.append(Identity(label, key, blob))


class WillingKey(AgentKey):
    """An agent's key; when the agent does not sign, that is this key's failure and not the connection's."""

    public_blob: Any = None  # paramiko 4 asks for it and does not set it

    def sign_ssh_data(self, data: bytes, algorithm: str | None = None) -> bytes:  # type: ignore[override]
        """Return the signature, or an empty one, which every server refuses."""
        try:
            signature: Any = super().sign_ssh_data(data, algorithm)
        except (paramiko.SSHException, OSError):
            return b""
        return bytes(signature)


@contextlib.contextmanager
def wallet(hop: Hop) -> Iterator[Wallet]:
    """Give what can be offered to a server; the agent is connected meanwhile.

    The order is OpenSSH's: for each key file its certificate and then the key itself, from the agent where that has
    it; then the agent's other keys.
    """
    agent = _agent()
    try:
        held = [WillingKey(agent, key.blob, key.comment) for key in agent.get_keys()] if agent else []
        yield _filled(hop, held)
    finally:
        if agent:
            agent.close()


def _filled(hop: Hop, held: list[WillingKey]) -> Wallet:
    filled = Wallet()
    for file in hop.key_files:
        key = _key(file, held, filled)
        if key is None:
            if hop.named_keys and not file.exists():
                filled.notes.append(f"{file} was not tried: it is not there")
            continue
        beside = file.with_name(f"{file.name}-cert.pub")
        for certificate in (beside, *hop.certificate_files):
            _add_certificate(filled, certificate, file, key, held)
        filled.add(f"key {file}", key)
    for key in [] if hop.only_these_keys else held:
        _add_held(filled, key)
    return filled


def _agent() -> Agent | None:
    with contextlib.suppress(paramiko.SSHException, OSError):
        return Agent()
    return None


def _key(file: Path, held: list[WillingKey], filled: Wallet) -> PKey | None:
    """Return a file's private key; what only the agent has unlocked comes from there."""
    public = _public(file)
    if public and (key := _held(held, public)):
        return key
    if not file.is_file():
        return None
    problem = "it is no private key that can be read"
    for kind in PRIVATE_KEYS:
        try:
            return kind.from_private_key_file(str(file))
        except paramiko.PasswordRequiredException:
            problem = f"it is encrypted and no agent holds it: run `ssh-add {file}`"
        except OSError as error:
            problem = str(error)
        except (paramiko.SSHException, ValueError, IndexError, UnsupportedAlgorithm):  # another kind of key, or nothing
            continue
        break
    filled.notes.append(f"{file} was not tried: {problem}")
    return None


def _public(file: Path) -> bytes | None:
    """Return the public half that lies beside a private key, or that the file is itself."""
    for candidate in (file.with_name(f"{file.name}.pub"), file):
        with contextlib.suppress(OSError, ValueError, paramiko.SSHException):
            return bytes(PublicBlob.from_file(str(candidate)).key_blob)
    return None


def _held(held: list[WillingKey], public: bytes) -> PKey | None:
    """Return an object of its own for the agent's key with this public half, since certificates are put into it."""
    found = next((key for key in held if key.blob == public), None)
    return WillingKey(found.agent, found.blob, found.comment) if found else None


def _add_certificate(filled: Wallet, file: Path, key_file: Path, key: PKey, held: list[WillingKey]) -> None:
    try:
        text = file.read_bytes()
        certificate = serialization.load_ssh_public_identity(text)
    except FileNotFoundError:
        return
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        filled.notes.append(f"{file} was not tried: it is no certificate that can be read ({error})")
        return
    if not isinstance(certificate, serialization.SSHCertificate) or _public_half(certificate) != key.asbytes():
        return  # a certificate of another key
    if not _in_time(filled, f"certificate {file}", certificate):
        return
    with_certificate = _held(held, key.asbytes()) or type(key).from_private_key_file(str(key_file))
    with_certificate.load_certificate(text.decode())
    filled.add(f"certificate {file}", with_certificate)


def _add_held(filled: Wallet, key: WillingKey) -> None:
    label = f"the agent's key {key.comment or key.get_name()}"
    if "-cert-" in key.get_name():
        line = f"{key.get_name()} {base64.b64encode(key.blob).decode()}".encode()
        with contextlib.suppress(ValueError, UnsupportedAlgorithm):
            certificate = serialization.load_ssh_public_identity(line)
            label = f"the agent's certificate {key.comment}"
            if isinstance(certificate, serialization.SSHCertificate) and not _in_time(filled, label, certificate):
                return
    filled.add(label, key)


def _in_time(filled: Wallet, label: str, certificate: serialization.SSHCertificate) -> bool:
    """Whether a certificate is not over by this computer's clock; one that begins later is the server's to judge."""
    if certificate.valid_before == FOR_EVER or certificate.valid_before > time.time():
        return True
    ended = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(certificate.valid_before))
    filled.expired.append(f"{label} (until {ended})")
    return False


def _public_half(certificate: serialization.SSHCertificate) -> bytes:
    encoding, kind = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return base64.b64decode(certificate.public_key().public_bytes(encoding, kind).split()[1])
