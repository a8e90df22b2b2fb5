"""How long to wait before trying again."""

from __future__ import annotations

import random


def pause(attempt: int, shortest: float = 0.2, longest: float = 30.0, chance: float | None = None) -> float:
    """Return the seconds to wait after the failure of attempt number `attempt`, counted from 1.

    The time doubles from `shortest` to `longest`. Between half of it and all of it is waited, by `chance` (0 to 1,
    random unless given), so that many who failed together do not come back together.
    """
    whole = min(shortest * 2.0 ** min(attempt - 1, 60), longest)
    return whole * (1 + (random.random() if chance is None else chance)) / 2  # noqa: S311 - no secret
