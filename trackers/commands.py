"""The commands that messages give: whole, so that people can paste them wherever they read the message."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path

from trackers.layout import DatasetPaths, SessionPaths, Volumes
from trackers.names import ProcessingPipelines

NAME_VARIABLE = "SESSIONFLOW_SERVER_NAME"  # tells jobs what the manager calls the server that they run on
_server: ContextVar[str] = ContextVar("server", default="")


@contextlib.contextmanager
def called(server: str) -> Iterator[None]:
    """Give commands, as long as it lasts, for a manager that calls this server so; empty: for this computer."""
    token = _server.set(server)
    try:
        yield
    finally:
        _server.reset(token)


def command(*words: str) -> str:
    """Return a `sessionflow` command, quoted for a shell, that reaches this server from where the manager is."""
    server = _named()
    return shlex.join(["sessionflow", *words, *(["--server", server] if server else [])])


def install_command(*environments: str) -> str:
    """Return the command that builds environments on this server."""
    server = _server.get() or os.environ.get(NAME_VARIABLE, "") or "local"
    return shlex.join(["sessionflow", "server", "install", server, "--with", ",".join(environments)])


def on_session(directory: Path, *words: str, options: tuple[str, ...] = ()) -> str:
    """Return a command about a session, e.g. `lock release`; `directory` is its folder on the storage volume."""
    return command(*words, str(directory.absolute()), *options)


def on_dataset(volumes: Volumes, paths: DatasetPaths, *words: str) -> str:
    """Return a command about a dataset, or about one animal in it, e.g. `lock release`."""
    return command(*words, str(paths), *(() if _named() else (*_roots(volumes), "--datasets", str(paths.root))))


def run(pipeline: ProcessingPipelines, paths: SessionPaths, *options: str) -> str:
    """Return the command that runs a pipeline on a session."""
    names = ("--project", paths.project, "--animal", paths.animal, "--session", paths.session)
    return command("run", pipeline.name.lower(), *names, *options, *_roots(paths.volumes))


def again(pipeline: ProcessingPipelines, paths: SessionPaths, *, changed: bool) -> str:
    """Return the command that makes a session's result anew, of which files are missing, or `changed`.

    A file with other contents may be somebody's work: a run replaces it only where it is told to.
    """
    return run(pipeline, paths, "--reprocess", *(("--discard-curation",) if changed else ()))


def track_again(volumes: Volumes, dataset: DatasetPaths, sessions: Iterable[str]) -> str:
    """Return the command that tracks the cells of an animal in a dataset anew."""
    names = ("--project", dataset.project, "--animal", dataset.animal, "--dataset", dataset.dataset)
    roots = () if _named() else (*_roots(volumes), "--datasets", str(dataset.root))
    return command("run", "multiday", *names, "--sessions", *sessions, "--reprocess", *roots)


def _named() -> str:
    """Return what the manager calls this server; empty where it is the manager's own computer."""
    return _server.get() or os.environ.get(NAME_VARIABLE, "")


def _roots(volumes: Volumes) -> tuple[str, ...]:
    return ("--storage", str(volumes.storage), *(() if volumes.one else ("--working", str(volumes.working))))
