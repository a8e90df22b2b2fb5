"""A flow whose server is a block: where Prefect cannot load that, the run says so in words, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from prefect import Flow
from prefect.exceptions import ParameterTypeError
from pydantic import ValidationError

from tasks.servers import in_words

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class NoServer:
    """Stands for a server that Prefect cannot load from its block, and says why; the flow fails with these words."""

    words: str

    @classmethod
    def because(cls, problem: BaseException | None) -> NoServer:
        """Say what is wrong, and what to do."""
        wrong = problem.__cause__ if isinstance(problem, RuntimeError) else None
        if isinstance(wrong, ValidationError):
            why = f"is not described in Prefect as it must be: {in_words(wrong)}"
            then = "Correct its block in the UI, or add it anew"
        else:
            why, then = "is no longer described in Prefect: its block was removed", "Add it again"
        return cls(
            f"The server of this run {why}. Nothing was done. {then}: sessionflow server add NAME --file server.yaml. "
            "Then choose it where this run was started from (a deployment, a schedule, a form), and start it anew."
        )


class ServerFlow(Flow[P, R]):
    """A flow with a parameter `server`, which it is given as a `NoServer` where it cannot be loaded.

    Prefect loads blocks before it calls a flow, and would end the run with words of its own, which name neither the
    server nor what to do.
    """

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Check a run's parameters; that its server cannot be loaded is left to the flow, which says so in words."""
        try:
            return super().validate_parameters(parameters)
        except ParameterTypeError as error:
            if "$ref" not in (parameters.get("server") or {}):
                raise
            others = super().validate_parameters({**parameters, "server": None})
            return {**others, "server": NoServer.because(error.__cause__)}
