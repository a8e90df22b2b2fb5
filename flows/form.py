"""How Prefect's form shows a flow's parameters where the plain types would show them badly."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any

from pydantic import GetJsonSchemaHandler

from tasks.compute_server import ComputeServer
from trackers.names import DAY_PATTERN, SESSION_PATTERN


class _Shown:
    """Adds to what forms and Prefect's server know of a parameter; calls from Python are checked by ourselves."""

    def __init__(self, **more: str) -> None:
        self._more = more

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), **self._more}


# without the slug, one chooses between a block and none before the blocks are offered
OfferedServer = Annotated[ComputeServer | None, _Shown(block_type_slug=ComputeServer.get_block_type_slug())]
"""A server that may be left out, as a dropdown of those that are described."""

# Prefect shows the pattern of what it refuses, so each begins with a comment that people can read. What they let pass
# is looked at by the server side: see trackers.names. Letters of any script are allowed, so the other ASCII is named.
_WRONG = r"\x00-\x1f!-*,/:-@\[-^`{-\x7f"
_NAME = rf"(?#letters, digits, spaces and _ - . +)^(?!.*\.\.)[^{_WRONG}.\- ][^{_WRONG}]*$"
_TIME = "YYYY-MM-DD-HH-MM-SS-ffffff, a UTC date and time that there is"
_SESSION = rf"(?#{_TIME})^{SESSION_PATTERN}$"
_OF_ANIMAL = rf"(?#ANIMAL/{_TIME})^[^{_WRONG}.\- ][^{_WRONG}]*/{SESSION_PATTERN}$"
_PATTERNS = {"project": _NAME, "animal": _NAME, "dataset": _NAME, "session": _SESSION}


SessionNames = list[Annotated[str, _Shown(pattern=_SESSION)]]
"""Names of sessions of one project, or of one animal."""

AnimalSessions = list[Annotated[str, _Shown(pattern=_OF_ANIMAL)]]
"""Sessions of one project, each as ANIMAL/SESSION."""

Day = Annotated[date, _Shown(pattern=rf"(?#YYYY-MM-DD, a day that there is)^{DAY_PATTERN}$")]


def form_signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature, its types as a form shows them best; what it accepts is the same."""
    signature = inspect.signature(function, eval_str=True)
    return signature.replace(parameters=[_shown(parameter) for parameter in signature.parameters.values()])


def _shown(parameter: inspect.Parameter) -> inspect.Parameter:
    if parameter.annotation == ComputeServer | None:
        return parameter.replace(annotation=OfferedServer)
    if parameter.annotation is str and parameter.name in _PATTERNS and parameter.default is inspect.Parameter.empty:
        return parameter.replace(annotation=Annotated[str, _Shown(pattern=_PATTERNS[parameter.name])])
    return parameter
