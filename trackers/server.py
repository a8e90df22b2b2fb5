"""The program that answers the manager: JSON lines in, JSON lines out, and what has changed as it changes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from typing import Any, TextIO

from trackers.calls import CALLS, followed_work
from trackers.commands import called
from trackers.errors import BadInputError, FileSystemError, SessionflowError
from trackers.protocol import PROTOCOL
from trackers.views import view
from trackers.watcher import Watcher

WORKERS = 8


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request and return its answer: `result`, or `error` with type, message and exit code."""
    number = request.get("id")
    try:
        if request.get("protocol", PROTOCOL) != PROTOCOL:
            raise BadInputError(
                f"The manager speaks protocol {request['protocol']!r} and this server side {PROTOCOL}. "
                "Nothing was done. Install the same version of sessionflow on both."
            )
        call = CALLS.get(str(request.get("call")))
        if call is None:
            raise BadInputError(f"{request.get('call')!r} is no call; known are {', '.join(CALLS)}. Nothing was done.")
        arguments = request.get("arguments") or {}
        if not isinstance(arguments, dict):
            raise BadInputError(f"The arguments of {request['call']} are no JSON object. Nothing was done.")
        site = arguments.get("site")
        with called(str(site.get("name") or "") if isinstance(site, dict) else ""):
            return {"id": number, "result": call(dict(arguments))}
    except SessionflowError as error:
        return {"id": number, "error": _error(type(error).__name__, str(error), error.exit_code, error.remedy)}
    except OSError as error:
        problem = f"{error.filename or 'The file system'}: {error.strerror or error}. Nothing was done after that."
        return {"id": number, "error": _error(FileSystemError.__name__, problem, FileSystemError.exit_code)}
    except Exception as error:  # one bad request must not end the server side
        return {"id": number, "error": _error(type(error).__name__, f"{type(error).__name__}: {error}", 1)}


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more; several at once, each answer one line with the request's id.

    A submission that was asked for with `watch` is followed from then on: what changes comes as lines with `event`.
    """
    from concurrent.futures import ThreadPoolExecutor  # a single call does without, and starts the faster

    lock = threading.Lock()

    def say(message: dict[str, Any]) -> None:
        with lock, contextlib.suppress(BrokenPipeError):  # nobody listens any more; the requests end as well
            answers.write(json.dumps(message) + "\n")
            answers.flush()

    watcher = Watcher(say, view)

    def work(line: str) -> None:
        request = _parsed(line)
        reply = answer(request)
        say(reply)  # before any event: what comes later is newer
        if request.get("call") == "watch" and "result" in reply:
            _follow(watcher, dict(request["arguments"]), reply["result"])

    with ThreadPoolExecutor(WORKERS) as pool:
        for line in requests:
            if line.strip():
                pool.submit(work, line)
    watcher.stop()


def _follow(watcher: Watcher, arguments: dict[str, Any], seen: dict[str, Any]) -> None:
    work, number = followed_work(arguments)
    watcher.follow(str(arguments.get("key") or ""), work, number, seen)


def _parsed(line: str) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {"call": f"(no JSON: {error})"}
    return request if isinstance(request, dict) else {"call": "(no JSON object)"}


def _error(kind: str, message: str, exit_code: int, remedy: str = "") -> dict[str, Any]:
    return {"type": kind, "message": message, "exit_code": exit_code, "remedy": remedy}


def main(arguments: list[str]) -> int:
    """Serve, or carry out a single call: `serve`, or `CALL [JSON]`."""
    if arguments == ["serve"]:
        answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what anything else prints must not get between the answers
        # a byte that is no text must end one request and not the server side
        with os.fdopen(0, encoding="utf-8", errors="replace", closefd=False) as requests:
            serve(requests, answers)
        return 0
    if not arguments or arguments[0] not in CALLS or len(arguments) > 2:
        calls = "\n  ".join(f"{name:15} {(call.__doc__ or '').splitlines()[0]}" for name, call in CALLS.items())
        sys.stderr.write(f"usage: python -m trackers serve | CALL [JSON]\n\ncalls:\n  {calls}\n")
        return 2
    text = arguments[1] if len(arguments) == 2 else "{}"
    request = _parsed(json.dumps({"call": arguments[0]}))
    try:
        request["arguments"] = json.loads(text)
    except (ValueError, RecursionError) as error:
        sys.stderr.write(f"{text!r} is no JSON: {error}. Nothing was done.\n")
        return 2
    reply = answer(request)
    print(json.dumps(reply))
    return int(reply["error"]["exit_code"]) if "error" in reply else 0
