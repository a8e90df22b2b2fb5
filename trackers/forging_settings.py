"""What a project must say for its NWB files, because no session says it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self

from trackers.errors import BadInputError
from trackers.settings import Known

_SPECIES = re.compile(r"[A-Z][a-z]+ [a-z]+( [a-z]+)?|http://purl\.obolibrary\.org/obo/NCBITaxon_\d+", re.ASCII)


class UnclearFrames(StrEnum):
    """What to do where it is not clear which pulse goes with which frame."""

    REFUSE = "refuse"
    FROM_START = "from start"
    FROM_END = "from end"
    ONE_TO_ONE = "one to one"


@dataclass(frozen=True)
class ForgingSettings:
    """Settings of forging.

    Attributes:
        species: Latin name, e.g. `Mus musculus`, or NCBI's address of the taxon.
        lab, institution: where the data was recorded.
        indicator: of calcium, e.g. `GCaMP6f`.
        excitation_nm, emission_nm: wavelengths of the imaging, nm; none: not known.
        location: of the imaging, as the Allen mouse brain atlas names it; empty: where surgery_metadata.yaml says that
            the window was implanted.
        unclear_frames: what it means where the mesoscope's pulses and frames do not go together.
    """

    species: str = ""
    lab: str = ""
    institution: str = ""
    indicator: str = ""
    excitation_nm: float | None = None
    emission_nm: float | None = None
    location: str = ""
    unclear_frames: UnclearFrames = UnclearFrames.REFUSE

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> Self:
        """Read and check settings; `where` is the file to write them to.

        Raises:
            BadInputError: the species is missing, a name is unknown, or a value is not what it must be.
        """
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise BadInputError(
                f"{', '.join(unknown)}: no setting of forging; known are {', '.join(sorted(known))}. Nothing was done."
            )
        if not data.get("species"):
            raise BadInputError(
                "An NWB file must name the animal's species, which no session does. Nothing was done. Write it to "
                f"{where}, e.g. `forging: {{species: Mus musculus}}`."
            )
        try:
            numbers: dict[str, Any] = {
                name: None if data.get(name) is None else float(data[name]) for name in ("excitation_nm", "emission_nm")
            }
            unclear = UnclearFrames(data.get("unclear_frames", UnclearFrames.REFUSE))
        except (TypeError, ValueError) as error:
            raise BadInputError(f"The settings of forging in {where}: {error}. Nothing was done.") from None
        words: dict[str, Any] = {name: str(data.get(name) or "") for name in known - {*numbers, "unclear_frames"}}
        if not _SPECIES.fullmatch(words["species"]):
            raise BadInputError(
                f"{words['species']!r} is no species: use the Latin name, e.g. `Mus musculus`. Nothing was done. "
                f"Correct it in {where}."
            )
        return cls(**words, **numbers, unclear_frames=unclear)


_NUMBERS = ("excitation_nm", "emission_nm")
FORGING: dict[str, Known] = {
    item.name: Known(
        item.default,
        (float, type(None)) if item.name in _NUMBERS else (str,),
        tuple(UnclearFrames) if item.name == "unclear_frames" else (),
    )
    for item in fields(ForgingSettings)
}
"""What a settings file may say for forging."""
