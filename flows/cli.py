"""The `sessionflow` command: what it accepts, and the exit codes it ends with."""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli_launch import add_commands as add_launch_commands
from flows.cli_results import add_commands as add_result_commands
from flows.cli_up import add_commands as add_up_commands
from flows.cli_up import positive
from trackers.errors import BadInputError, PrefectError, SessionflowError
from trackers.names import ProcessingPipelines
from trackers.processes import this_account

if TYPE_CHECKING:
    from tasks.servers import Server

SERVER_VARIABLE = "SESSIONFLOW_SERVER"
STORAGE_VARIABLE = "SESSIONFLOW_STORAGE"
WORKING_VARIABLE = "SESSIONFLOW_WORKING"
DATASETS_VARIABLE = "SESSIONFLOW_DATASETS"
RUNNABLE = ("checksum", "preparation", "behavior", "suite2p", "video", "multiday", "report", "archiving", "manifest")
STALE_HELP = "run also what succeeded with other settings, raw data or libraries than there are now"
DISCARD_HELP = "run again also where people have edited the result since it was recorded"
EXIT_CODES = "exit codes: 0 success, 1 a pipeline failed, 2 bad input, 3 somebody else is working on it"
LEAVE_SECONDS = 5.0  # for what can still be told to a Prefect that has gone
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
SESSION_HELP = "PROJECT/ANIMAL/SESSION under --storage, or the path of the session's folder"
TARGET_HELP = f"{SESSION_HELP}; of a dataset, PROJECT/DATASET or PROJECT/DATASET/ANIMAL"


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser; each command has its examples in its help."""
    top = argparse.ArgumentParser(
        prog="sessionflow",
        description="Runs the processing pipelines of a neuroscience lab's recordings.",
        epilog=f"try: sessionflow demo\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_run(commands)
    _add_forge(commands)
    _add_status(commands)
    _add_lock(commands)
    _add_tracker(commands)
    _add_cancel(commands)
    _add_server(commands)
    _add_sweep(commands)
    add_launch_commands(functools.partial(_command, commands))
    _add_process_project(commands)
    _add_exclude(commands)
    _add_quality(commands)
    _add_where(commands)
    _add_arrival(commands)
    add_result_commands(functools.partial(_command, commands), _add_roots, SESSION_HELP, TARGET_HELP)
    add_up_commands(functools.partial(_command, commands))
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out one command and exit."""
    parsed = parser().parse_args(arguments)
    if parsed.carry_out != "flows.cli_up:up":  # its parts inherit it, and have logs to write
        _quieten_prefect()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        carry_out = pkgutil.resolve_name(parsed.carry_out)  # only now: --help need not wait for Prefect
        code = carry_out(parsed)
    except SessionflowError as error:
        sys.stderr.write(f"sessionflow: {error}\n")
        code = error.exit_code
        if isinstance(error, PrefectError):
            _leave_soon(code)
    except ValueError as error:
        if not str(title := getattr(error, "title", "")).endswith("Settings"):
            raise
        # Prefect reads them while it is imported, and refuses them in a traceback
        found = error.errors()  # type: ignore[attr-defined]
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))} is {e['input']!r}: {e['msg']}" for e in found)
        sys.stderr.write(f"sessionflow: Prefect's settings cannot be used ({title}): {wrong}. Nothing was done.\n")
        code = BadInputError.exit_code
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say_the_end()
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _quieten_prefect() -> None:
    """Keep runs' logs out of the terminal, except what whoever sits at it has to know: that a server is waited for."""
    level = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"
    if level not in os.environ:
        # the command says what happens itself; the log of every run is in Prefect's database all the same
        os.environ[level] = "CRITICAL"
        if logging.lastResort is not None:
            logging.getLogger("sessionflow.server").addHandler(logging.lastResort)


def _say_the_end() -> None:
    from tasks.interruption import Interruption

    sys.stderr.write(f"sessionflow: {Interruption.in_words()}\n")


def _leave_soon(code: int) -> None:
    """Have the process end though Prefect's threads go on: they offer every event that is left to a dead server.

    A project's run was seen to be there half an hour after it had said how it ended.
    """
    sys.stdout.flush()
    leaving = threading.Timer(LEAVE_SECONDS, os._exit, [code])
    leaving.daemon = True
    leaving.start()


def _terminated(number: int, _frame: object) -> None:
    """End by the signal, as who sent it expects; a flow that ran has ended its jobs by now."""
    _say_the_end()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def server_of(arguments: argparse.Namespace) -> Server:
    """Return the server that the arguments mean: a described one, or this computer with the roots that were given.

    Raises:
        BadInputError: no storage root was given, or there is no such server.
    """
    from tasks.servers import Server, find_server

    if arguments.server:
        return find_server(arguments.server)
    if not arguments.storage:
        raise BadInputError(
            f"No storage root was given. Nothing was done. Pass --storage FOLDER, or set {STORAGE_VARIABLE}; "
            "for another computer, --server NAME."
        )
    storage = _root(arguments.storage)
    working = _root(arguments.working) if arguments.working else storage
    datasets = _root(arguments.datasets) if arguments.datasets else ""
    return Server(storage_root=storage, working_root=working, datasets_root=datasets)


def _root(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise BadInputError(f"The root {path!r} is no text in UTF-8. Nothing was done.") from None
    return str(Path(path).absolute())


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    examples: Sequence[str],
) -> argparse.ArgumentParser:
    shown = "\n".join(f"  sessionflow {example}" for example in examples)
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n{shown}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_roots(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--server",
        metavar="NAME",
        default=os.environ.get(SERVER_VARIABLE),
        help=f"the server that has the data, or the file that describes it (default: ${SERVER_VARIABLE}, else this "
        "computer)",
    )
    command.add_argument(
        "--storage",
        metavar="FOLDER",
        default=os.environ.get(STORAGE_VARIABLE),
        help=f"the folder that holds the projects, on the slow, large volume (default: ${STORAGE_VARIABLE})",
    )
    command.add_argument(
        "--working",
        metavar="FOLDER",
        default=os.environ.get(WORKING_VARIABLE),
        help=f"the same on the fast volume (default: ${WORKING_VARIABLE}, else the storage folder: one volume)",
    )
    command.add_argument(
        "--datasets",
        metavar="FOLDER",
        default=os.environ.get(DATASETS_VARIABLE),
        help=f"the folder that holds your datasets (default: ${DATASETS_VARIABLE}, else your account's name, on the "
        "fast volume)",
    )


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "write a small project and process it, all on this computer"
    command = _command(commands, "demo", summary, ["demo", "demo /tmp/try", "demo --science"])
    command.add_argument(
        "folder", nargs="?", default="sessionflow-demo", metavar="FOLDER", help="where (default: ./sessionflow-demo)"
    )
    command.add_argument(
        "--science",
        action="store_true",
        help="three days with planted cells, through all nine pipelines, to a report of each; takes minutes",
    )
    command.set_defaults(carry_out="flows.demo:demo")


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    names = ["--project P", "--animal 305", "--session 2025-08-26-18-30-15-123456"]
    where = f"--storage /data {' '.join(names)}"
    run = _command(
        commands, "run", "run one pipeline", [f"run checksum {where}", "run manifest --storage /data --project P"]
    )
    run.add_argument("pipeline", choices=RUNNABLE, metavar="PIPELINE", help=", ".join(RUNNABLE))
    process = _command(
        commands,
        "process",
        "run every eligible pipeline of one session",
        [f"process {where}", f"process {where} --archive"],
    )
    for command in (run, process):
        _add_roots(command)
        command.add_argument("--project", required=True)
        command.add_argument("--animal", required=command is process)
        command.add_argument("--session", required=command is process, help="its UTC time, YYYY-MM-DD-HH-MM-SS-ffffff")
        command.add_argument("--reprocess", action="store_true", help="run also what has succeeded before")
        command.add_argument("--discard-curation", action="store_true", help=DISCARD_HELP)
        command.add_argument("--keep-job-logs", action="store_true", help="keep the jobs' logs after a success")
        command.add_argument("--requested-by", default=this_account(), metavar="NAME", help="who asks")
    process.add_argument("--rerun-stale", action="store_true", help=STALE_HELP)
    run.add_argument("--regenerate", action="store_true", help="checksum: write a new one instead of verifying")
    run.add_argument("--planes", type=int, metavar="N", help="suite2p: how many there must be (default: as recorded)")
    run.add_argument("--plane", type=int, metavar="N", help="suite2p: look for the cells of this plane again, from 0")
    run.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="suite2p: a setting of its own for this run, e.g. detection.threshold_scaling=0.8; several times",
    )
    run.add_argument(
        "--dataset",
        default="",
        metavar="NAME",
        help="multiday: the dataset, made where there is none; report: whose cells across days are shown",
    )
    run.add_argument(
        "--sessions", nargs="+", default=[], metavar="S", help="multiday: its sessions, by their UTC times"
    )
    run.add_argument("--timezone", default="America/New_York", help="manifest: the zone of its dates")
    process.add_argument("--archive", action="store_true", help="archive the results at the end")
    run.set_defaults(carry_out="flows.cli_run:run")
    process.set_defaults(carry_out="flows.cli_run:process")


def _add_forge(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    where = "learning --project P --storage /data"
    examples = [
        f"forge {where} --species 'Mus musculus'",
        f"forge {where} --animals 305 --require-qc",
        f"forge {where} --sessions 305/2025-08-26-18-30-15-123456",
    ]
    command = _command(commands, "forge", "forge sessions into a dataset of NWB files and tables", examples)
    command.add_argument("dataset", metavar="DATASET")
    _add_roots(command)
    command.add_argument("--project", required=True)
    command.add_argument(
        "--sessions", nargs="+", metavar="ANIMAL/SESSION", help="these (default: all that can be forged)"
    )
    command.add_argument("--animals", nargs="+", metavar="ANIMAL", help="of all sessions, those of these animals only")
    command.add_argument("--species", default="", help="of the animals, in Latin (default: the project's settings)")
    command.add_argument(
        "--unclear-frames",
        default="refuse",
        choices=("refuse", "from start", "from end", "one to one"),
        help="what it means where the mesoscope's pulses and its frames do not go together",
    )
    command.add_argument("--require-qc", action="store_true", help="refuse sessions that quality control did not pass")
    command.add_argument("--reprocess", action="store_true", help="run also where it has succeeded before")
    command.add_argument("--keep-job-logs", action="store_true", help="keep the jobs' logs after a success")
    command.add_argument("--requested-by", default=this_account(), metavar="NAME", help="who asks")
    command.set_defaults(carry_out="flows.cli_run:forge")


def _add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    examples = [
        "status P --storage /data",
        "status P --animal 305 --notes",
        "status --why P/305/2025-08-26-18-30-15-123456",
    ]
    command = _command(commands, "status", "show how far the sessions and datasets of a project are", examples)
    command.add_argument("project", nargs="?", metavar="PROJECT")
    command.add_argument("--animal", default="", help="this animal's sessions only")
    command.add_argument("--notes", action="store_true", help="with the experimenter's notes")
    command.add_argument("--why", metavar="SESSION", help=f"the results and history of one: {TARGET_HELP}")
    _add_roots(command)
    command.set_defaults(carry_out="flows.cli_control:status")


def _add_lock(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    examples = [
        "lock show P/305/2025-08-26-18-30-15-123456",
        "lock release /data/P/305/2025-08-26-18-30-15-123456 --yes",
    ]
    command = _command(commands, "lock", "show who works on a session or dataset, or take its lock from them", examples)
    command.add_argument("action", choices=("show", "release"))
    command.add_argument("session", metavar="SESSION", help=TARGET_HELP)
    command.add_argument("--abandon", action="store_true", help="release: also while jobs run; they are left alone")
    command.add_argument("--yes", action="store_true", help="release: do not ask")
    _add_roots(command)
    command.set_defaults(carry_out="flows.cli_control:lock")


def _add_tracker(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    examples = ["tracker show P/305/2025-08-26-18-30-15-123456 behavior", "tracker reset P manifest --yes"]
    command = _command(commands, "tracker", "show or reset what a pipeline's tracker file says", examples)
    command.add_argument("action", choices=("show", "reset"))
    command.add_argument("session", metavar="SESSION", help=f"{TARGET_HELP}; for the manifest, PROJECT")
    command.add_argument("pipeline", metavar="PIPELINE", choices=[p.name.lower() for p in ProcessingPipelines])
    command.add_argument("--yes", action="store_true", help="reset: do not ask")
    _add_roots(command)
    command.set_defaults(carry_out="flows.cli_control:tracker")


def _add_cancel(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    examples = ["cancel P/305/2025-08-26-18-30-15-123456"]
    command = _command(commands, "cancel", "end every job of a session or dataset, whoever started it", examples)
    command.add_argument("session", metavar="SESSION", help=TARGET_HELP)
    command.add_argument("--yes", action="store_true", help="do not ask")
    _add_roots(command)
    command.set_defaults(carry_out="flows.cli_control:cancel")


def _add_server(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    examples = ["server add lab --file server.yaml", "server check lab", "server install lab", "server ACTION --help"]
    server = _command(commands, "server", "describe servers, check them, and put the server side there", examples)
    actions = server.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, summary: str, *examples: str, named: bool = True) -> argparse.ArgumentParser:
        command = _command(actions, name, summary, [f"server {example}" for example in examples])
        command.set_defaults(carry_out=f"flows.cli_server:{name}_server")
        if named:
            command.add_argument("name", metavar="NAME", help="how you call the server")
        return command

    add = action("add", "keep the description of a server", "add lab --file server.yaml")
    add.add_argument("--file", required=True, type=Path, help="YAML; docs/servers.md explains every field")
    imported = action(
        "import",
        "describe a server by a credentials file of sl-shared-assets 5.1.0",
        "import lab user_credentials.yaml",
    )
    imported.add_argument("credentials", type=Path, metavar="CREDENTIALS.yaml", help="its password is not taken over")
    for command in (add, imported):
        command.add_argument("--replace", action="store_true", help="also where another one has that name")
    action("list", "list the servers that are described", "list", named=False)
    action("show", "show the description of a server", "show lab")
    remove = action("remove", "forget a server; on the server nothing changes", "remove lab --yes")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    action("check", "walk the whole way to a server and say what is not as it should be", "check lab", "check local")
    _add_server_install(
        action(
            "install",
            "bring the server side, or the environments of this computer, to this version",
            "install lab",
            "install lab --with suite2p,video,forging",
            "install local --with suite2p",
        )
    )
    action("login", "log in once where the site asks for one-time passwords", "login lab")
    action("logout", "end the connection that `login` keeps", "logout lab")


def _add_server_install(install: argparse.ArgumentParser) -> None:
    install.add_argument(
        "--with",
        dest="environments",
        metavar="NAME,…",
        default=None,
        help="the environments beside the server side's own (default: manifest, behavior, and those that are there)",
    )
    install.add_argument("--wheels", type=Path, metavar="FOLDER", help="take the wheels from here, without internet")
    install.add_argument("--python", default="", metavar="PATH", help="the interpreter there to build upon")
    install.add_argument("--again", action="store_true", help="build anew what is there already")


def _add_sweep(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "show what managers that are dead left behind, and repair it"
    command = _command(commands, "sweep", summary, ["sweep --storage /data", "sweep P --server cluster --repair"])
    command.add_argument("projects", nargs="*", metavar="PROJECT", help="default: all")
    command.add_argument("--repair", action="store_true", help="do it; otherwise only say what would be done")
    command.add_argument("--requested-by", default=this_account(), metavar="NAME", help="who asks")
    _add_roots(command)
    command.set_defaults(carry_out="flows.cli_sweep:sweep")


def _add_process_project(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "run every session of a project that has something left to do"
    examples = [
        "process-project P --server cluster --dry-run",
        "process-project P --animal 305 --animal 306",
        "process-project P --rerun-failed --failed-cause memory --failed-since 2025-08-01",
    ]
    command = _command(commands, "process-project", summary, examples)
    add = command.add_argument
    add("project", metavar="PROJECT")
    _add_roots(command)
    add("--dry-run", action="store_true", help="only show what would be done")
    many: dict[str, Any] = {"action": "append", "default": None}
    add("--animal", dest="animals", metavar="A", **many, help="this animal only; can be given several times")
    add("--session", dest="sessions", metavar="S", **many, help="this session only, by its UTC time; several times")
    add("--pipeline", dest="pipelines", metavar="P", **many, help="this pipeline only; several times")
    add("--reprocess", action="store_true", help="run also what has succeeded before")
    add("--rerun-stale", action="store_true", help=STALE_HELP)
    add("--discard-curation", action="store_true", help=DISCARD_HELP)
    add("--rerun-failed", action="store_true", help="run also what failed before and waits")
    add("--failed-pipeline", dest="failed_pipelines", metavar="P", **many, help="of these, the failures of a pipeline")
    add("--failed-cause", metavar="TEXT", default="", help="of these, the failures whose reason has this text")
    add("--failed-since", metavar="DAY", type=date.fromisoformat, help="of these, the failures since, YYYY-MM-DD")
    add("--archive", action="store_true", help="archive the results of each session at its end")
    add("--regenerate-manifest", action="store_true", help="write the manifest anew also if nothing was run")
    add("--maximum-sessions", metavar="N", type=positive, help="so many sessions at once at most")
    add("--keep-job-logs", action="store_true", help="keep the jobs' logs after a success")
    add("--requested-by", default=this_account(), metavar="NAME", help="who asks")
    command.set_defaults(carry_out="flows.cli_project:process_project")


def _add_exclude(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    session = "P/305/2025-08-26-18-30-15-123456"
    summary = "take a session out of processing, with a reason that everybody sees"
    exclude = _command(commands, "exclude", summary, [f'exclude {session} --reason "the laser was off"'])
    exclude.add_argument("session", metavar="SESSION", help=SESSION_HELP)
    exclude.add_argument("--reason", required=True, help="why; shown wherever the session is")
    exclude.add_argument("--requested-by", default=this_account(), metavar="NAME", help="who asks")
    include = _command(commands, "include", "put an excluded session back into processing", [f"include {session}"])
    include.add_argument("session", metavar="SESSION", help=SESSION_HELP)
    for command in (exclude, include):
        _add_roots(command)
    exclude.set_defaults(carry_out="flows.cli_project:exclude")
    include.set_defaults(carry_out="flows.cli_project:include")


def _add_quality(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    session = "P/305/2025-08-26-18-30-15-123456"
    examples = ["qc P", f'qc overrule {session} bleached --reason "only in the last minute, which is left out"']
    command = _command(commands, "qc", "show a project's quality control, or overrule a verdict", examples)
    command.add_argument("words", nargs="+", metavar="PROJECT | overrule SESSION CHECK")
    command.add_argument("--animal", default="", help="this animal's sessions only")
    command.add_argument("--reason", default="", help="overrule: why; shown in the table and on the page")
    command.add_argument("--verdict", default="pass", choices=("pass", "fail"), help="overrule: (default: %(default)s)")
    command.add_argument("--requested-by", default=this_account(), metavar="NAME", help="who says so")
    _add_roots(command)
    command.set_defaults(carry_out="flows.cli_quality:quality")


def _add_arrival(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "process a project's sessions when they arrive, or no more"
    command = _command(commands, "arrival", summary, ["arrival on P --server lab", "arrival off P", "arrival show P"])
    command.add_argument("action", choices=("on", "off", "show"), help="sessions that are complete already stay alone")
    command.add_argument("project", metavar="PROJECT")
    command.add_argument("--requested-by", default=this_account(), metavar="NAME", help="who asks")
    _add_roots(command)
    command.set_defaults(carry_out="flows.cli_project:arrival")


def _add_where(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    examples = ["where P/305", "where P/305/2025-08-26-18-30-15-123456 --seconds 300"]
    command = _command(commands, "where", "show every folder of a session or an animal, with size and state", examples)
    command.add_argument("place", metavar="ANIMAL|SESSION", help="PROJECT/ANIMAL, PROJECT/ANIMAL/SESSION or a folder")
    command.add_argument("--seconds", type=float, default=20.0, help="how long to count sizes (default: %(default)g)")
    _add_roots(command)
    command.set_defaults(carry_out="flows.cli_project:where")


if __name__ == "__main__":
    main()
