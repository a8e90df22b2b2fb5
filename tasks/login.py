"""Logging in to a server that asks for one-time passwords, once for all of this account's processes."""

from __future__ import annotations

import asyncio
import getpass
import json
import subprocess
import sys
from typing import Any, Protocol

from tasks import held
from tasks.ssh_config import SshAddress, route
from trackers import errors
from trackers.errors import BadInputError, SessionflowError


class Terminal(Protocol):
    """Where a person reads and answers."""

    def show(self, text: str) -> None:
        """Show a text."""

    def ask(self, question: str, *, seen: bool) -> str:
        """Ask a question, whose answer is hidden unless it may be `seen`."""


class OwnTerminal:
    """The terminal that this program runs in."""

    def show(self, text: str) -> None:
        """Show a text; see `Terminal`."""
        print(text)

    def ask(self, question: str, *, seen: bool) -> str:
        """Ask a question; see `Terminal`."""
        return input(question) if seen else getpass.getpass(question)


def login(address: SshAddress, terminal: Terminal | None = None) -> str:
    """Log in, with a person answering the server, into a connection that a process of its own keeps from then on.

    The holder ends with its connection, by `logout`, or when another login takes its place. Answers are passed to it
    through a pipe, and neither it nor this program writes them anywhere.

    Returns:
        the account and place, like "me@cluster:22".

    Raises:
        AuthenticationError: the server did not accept the answers.
        UnreachableError, HostKeyError, BadInputError: as for every connection.
        KeyboardInterrupt, EOFError: the person gave up; nothing is left behind.
    """
    if sys.platform == "win32":
        raise BadInputError("Logins can be held on Linux and macOS only. Nothing was done.")
    hops = route(address)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tasks.holder"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        start_new_session=True,  # Ctrl-C is for this program, whose end the holder sees
    )
    with process:
        assert process.stdin  # noqa: S101 - they were opened as pipes
        assert process.stdout  # noqa: S101
        _tell(process.stdin, [hop.to_json() for hop in hops])
        for line in process.stdout:
            message = json.loads(line)
            if "held" in message:
                return f"{hops[-1].user}@{hops[-1].place}"
            if "error" in message:
                raise _error(message)
            _let_answer(message, terminal or OwnTerminal(), process.stdin)
    raise SessionflowError(f"The holder of the login to {address.label} ended before it was there. Nothing was kept.")


def logout(address: SshAddress) -> bool:
    """End the holder of a login, and its connection; return whether there was one."""

    async def quit_all() -> bool:
        found = False
        while (holder := await held.find(address)) and holder.facts.get("pid") not in seen:
            seen.add(holder.facts.get("pid"))
            await holder.quit()
            found = True
        return found

    seen: set[Any] = set()
    return asyncio.run(quit_all())


def _let_answer(message: dict[str, Any], terminal: Terminal, holder: Any) -> None:
    if message["title"]:
        terminal.show(_harmless(message["title"]))
    answers = [terminal.ask(_harmless(question), seen=seen) for question, seen in message["questions"]]
    if answers:
        _tell(holder, {"answers": answers})


def _tell(holder: Any, message: Any) -> None:
    try:
        holder.write(json.dumps(message) + "\n")
        holder.flush()
    except BrokenPipeError:
        pass  # what it says last is read next


def _harmless(text: str) -> str:
    """Return a server's text without what would steer the terminal."""
    return "".join(each for each in text if each.isprintable() or each in "\n\t")


def _error(message: dict[str, Any]) -> Exception:
    kind = getattr(errors, message["error"], SessionflowError)
    error = kind.__new__(kind)
    Exception.__init__(error, message["message"])
    return error  # type: ignore[no-any-return]
