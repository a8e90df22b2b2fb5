"""The form of a mesoscope recording, as its `ops.json` tells it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trackers.errors import SessionDataError


@dataclass(frozen=True)
class Mesoscope:
    """How frames lie in the tiffs.

    Attributes:
        fs: volumes a second.
        nplanes: z-planes, whose frames are interleaved.
        lines: per ROI the lines of a frame that are its own; empty: there is one ROI, the whole frame.
        dy, dx: per ROI where it lies, pixels.
    """

    fs: float
    nplanes: int
    lines: tuple[tuple[int, ...], ...]
    dy: tuple[int, ...]
    dx: tuple[int, ...]

    @property
    def planes(self) -> int:
        """How many planes suite2p makes: ROIs times z-planes."""
        return self.nplanes * max(len(self.lines), 1)

    @property
    def height(self) -> int:
        """How many lines a frame must have."""
        return max((line[-1] + 1 for line in self.lines), default=0)

    def db(self) -> dict[str, Any]:
        """Return the entries of suite2p's db that say all this."""
        found: dict[str, Any] = {"nplanes": self.nplanes, "nchannels": 1}
        if self.lines:
            found |= {"nrois": len(self.lines), "lines": [list(line) for line in self.lines]}
            found |= {"dy": list(self.dy), "dx": list(self.dx)}
        return found


def read_mesoscope(path: Path) -> Mesoscope:
    """Read `ops.json`.

    Raises:
        SessionDataError: it is missing, or does not say what it must.
    """
    try:
        ops = json.loads(path.read_bytes())
        lines = tuple(tuple(int(number) for number in roi) for roi in ops.get("lines", ()))
        dy, dx = (tuple(int(number) for number in ops.get(key, ())) for key in ("dy", "dx"))
        form = Mesoscope(float(ops["fs"]), int(ops["nplanes"]), lines, dy, dx)
        rois = int(ops.get("nrois", max(len(lines), 1)))
    except FileNotFoundError:
        raise SessionDataError(f"{path} is missing. Nothing was done. Restore it, or run preparation again.") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SessionDataError(f"{path} cannot be used: {error!r}. Nothing was done. Correct it.") from None
    fits = rois == max(len(lines), 1) and len(dy) == len(dx) == len(lines) and all(lines)
    if form.nplanes < 1 or not 0 < form.fs < 1e6 or not fits:
        raise SessionDataError(
            f"{path} cannot be used: nplanes {form.nplanes}, fs {form.fs}, nrois {rois}, but {len(lines)} lines, "
            f"{len(dy)} dy, {len(dx)} dx. Nothing was done. Correct it."
        )
    return form
