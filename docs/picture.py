"""Make docs/demo.svg of what a terminal shows: `tmux capture-pane -e -p -S - -t PANE | python docs/picture.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).with_name("demo.svg")
COLUMNS = 100  # the pane's width


def main() -> None:
    """Turn the captured screen on stdin into the picture."""
    screen = re.sub(r"\s+\$\s*\Z", "\n", sys.stdin.read())  # without the prompt that follows
    console = Console(record=True, width=COLUMNS, file=sys.stderr, force_terminal=True, legacy_windows=False)
    console.print(Text.from_ansi(screen.rstrip("\n")), soft_wrap=True)
    picture = console.export_svg(title="sessionflow demo")
    # the font's files would be fetched from elsewhere, which a page may forbid; the reader has a fixed-width font
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    picture = picture.replace("Fira Code, monospace", "Menlo, Consolas, DejaVu Sans Mono, monospace")
    PICTURE.write_text(picture)


if __name__ == "__main__":
    main()
