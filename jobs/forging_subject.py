"""The animal of a session, out of what people wrote of it: what cannot be read is left out and said, never guessed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

Descriptions = Mapping[str, Mapping[str, Any]]

ANY_AGE = "P0D/"  # NWB's range without an upper end: a file must have an age, and this one says nothing of it
_BIRTH, _WEIGHT = "subject.date_of_birth_us of surgery_metadata.yaml", "mouse_weight_g of session_descriptor.yaml"


@dataclass(frozen=True)
class Animal:
    """What is known of it.

    Attributes:
        born: UTC; None where nobody knows.
        weight_kg: at the session; None where nobody knows.
        missing: what was looked for and not found, or cannot be, in words.
    """

    born: datetime | None
    weight_kg: Decimal | None
    missing: tuple[str, ...]

    def age(self, session: datetime) -> str:
        """Return its age at a session as NWB wants it: whole days, or any age where nobody knows."""
        return ANY_AGE if self.born is None else f"P{(session - self.born).days}D"


def animal(descriptions: Descriptions, session: datetime) -> Animal:
    """Read what a session's descriptions, by name, say of its animal; `session` is when that was."""
    missing: list[str] = []
    subject = section(descriptions["surgery_metadata"], "subject")
    return Animal(
        _born(subject.get("date_of_birth_us"), session, missing),
        _weight(descriptions["session_descriptor"].get("mouse_weight_g"), missing),
        tuple(missing),
    )


def section(description: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part of a description that holds further ones; empty where there is none, or it holds something else."""
    found = description.get(name)
    return found if isinstance(found, Mapping) else {}


def entries(description: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    """Go through a list of such parts; what else stands in it is passed over."""
    found = description.get(name)
    return (each for each in (found if isinstance(found, list) else ()) if isinstance(each, Mapping))


def _born(us: Any, session: datetime, missing: list[str]) -> datetime | None:
    words = "is not there"
    if us:
        try:
            born = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(us))
        except (TypeError, ValueError, OverflowError):
            words = f"is {us!r}, which is no time"
        else:
            if born <= session:
                return born
            words = f"is {born:%Y-%m-%d}, after the session"
    missing.append(f"the animal's date of birth ({_BIRTH}) {words}: its age is unknown")
    return None


def _weight(grams: Any, missing: list[str]) -> Decimal | None:
    if not grams:
        return None
    with contextlib.suppress(InvalidOperation):
        if (weight := Decimal(str(grams))).is_finite():
            return weight / 1000
    missing.append(f"the animal's weight ({_WEIGHT}) is {grams!r}, which is no number")
    return None
