"""What suite2p is told, and where it may keep its caches."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trackers.errors import BadInputError
from trackers.mesoscope import Mesoscope


def settings_of(changes: dict[str, Any], form: Mesoscope) -> dict[str, Any]:
    """Return suite2p's settings with `changes`, by dotted name.

    Raises:
        BadInputError: suite2p has no such setting.
    """
    import torch
    from suite2p import default_settings

    settings: dict[str, Any] = default_settings()
    settings["fs"] = form.fs
    settings["torch_device"] = "cuda" if torch.cuda.is_available() else "cpu"
    return changed(settings, changes)


def changed(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return suite2p's settings after changing those that `changes` names, dotted; they are changed in place.

    Raises:
        BadInputError: suite2p has no such setting, or the classifier is not there.
    """
    for name, value in changes.items():
        *groups, key = name.split(".")
        group: Any = settings
        for each in groups:
            group = group.get(each) if isinstance(group, dict) else None
        if not isinstance(group, dict) or key not in group or isinstance(group[key], dict):
            raise BadInputError(f"suite2p has no setting {name}. Nothing was done.")
        group[key] = value
    classifier = settings.get("classification", {}).get("classifier_path")
    if classifier and not Path(classifier).is_file():  # suite2p would take its own, and tell only its log
        raise BadInputError(
            f"classification.classifier_path is {classifier}, and there is no such file on this node. Nothing was "
            "done. Correct the setting, or put the file where every node finds it."
        )
    return settings


@contextlib.contextmanager
def own_caches() -> Iterator[None]:
    """Let suite2p be imported, with caches of its own as long as it is used: the home folder may be read-only."""
    caches = tempfile.mkdtemp(prefix="suite2p_")
    os.environ.update(HOME=caches, NUMBA_CACHE_DIR=caches, MPLCONFIGDIR=caches)
    try:
        importlib.import_module("jobs.torchvision_operators")  # before anything of suite2p
        yield
    finally:
        shutil.rmtree(caches, ignore_errors=True)
