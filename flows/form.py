"""How Prefect's form shows a flow's parameters where the plain types would show them badly."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import GetJsonSchemaHandler

from tasks.compute_server import ComputeServer


class _OfferBlocks:
    """Has the form offer the servers' blocks at once; otherwise one chooses between a block and none before that."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "block_type_slug": ComputeServer.get_block_type_slug()}


OfferedServer = Annotated[ComputeServer | None, _OfferBlocks()]
"""A server that may be left out, as a dropdown of those that are described."""


def form_signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature, its types as a form shows them best; what it accepts is the same."""
    signature = inspect.signature(function, eval_str=True)
    plain = ComputeServer | None
    shown = [p.replace(annotation=OfferedServer) if p.annotation == plain else p for p in signature.parameters.values()]
    return signature.replace(parameters=shown)
