"""Wheels without a network: made from what is installed beside the tests."""

from __future__ import annotations

import zipfile
from importlib import metadata
from pathlib import Path


def repack(folder: Path, *names: str) -> Path:
    """Write a wheel of each installed distribution into a folder; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        distribution = metadata.distribution(name)
        tag = next(line for line in (distribution.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: "))
        title = distribution.metadata["Name"].replace("-", "_").lower()
        path = folder / f"{title}-{distribution.version}-{tag.removeprefix('Tag: ')}.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
            for file in distribution.files or ():
                if ".." not in file.parts and "__pycache__" not in file.parts:
                    wheel.write(Path(str(file.locate())), file.as_posix())
    return folder
