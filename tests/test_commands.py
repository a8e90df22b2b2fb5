"""The commands that messages give: at their end, whole, and understood by the command line as they stand."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from flows.cli import parser
from flows.cli_control import _tracker_target, session_target
from jobs.archiving import archive
from jobs.checksum import verify
from jobs.preparation import prepare
from tests.conftest import SESSION, Side, make_session, states
from tests.moved_session import nothing, process, session
from trackers.commands import NAME_VARIABLE
from trackers.errors import SessionflowError
from trackers.graph import Graph, Job, Resources, Stage
from trackers.lock import SessionLock
from trackers.manager import generate_manager_id
from trackers.names import ProcessingPipelines
from trackers.tracker import ProcessingTracker

GRAPH = Graph((Stage("only", (Job("job", ("true",), Resources()),)),)).to_json()
TARGET = {"project": "Project", "animal": "305", "session": SESSION}


@pytest.fixture(params=["", "lab"])
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the manager calls the server; empty: it is the manager's own computer."""
    directory = tmp_path / "config" / "sessionflow" / "servers"
    directory.mkdir(parents=True)
    (directory / "lab.yaml").write_text("storage_root: /data\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return str(request.param)


@pytest.fixture
def side(tmp_path: Path, server: str) -> Side:
    root = tmp_path / "the lab's data"
    make_session(root / "storage")
    (root / "working").mkdir()
    side = Side(root)
    side.arguments["site"]["name"] = server
    return side


def message_of(reply: dict[str, dict[str, str]]) -> str:
    return reply["error"]["message"]


def pasted(message: str, *command: str, server: str = "", root: Path | None = None) -> None:
    """Check that the message ends with a command, and that it means the session where it is."""
    words = shlex.split(message[message.rindex("sessionflow ") :])
    arguments = parser().parse_args(words[1:])
    assert words[1 : 1 + len(command)] == list(command)
    assert arguments.server == (server or None)
    if "session" in arguments and arguments.command == "run":
        assert {name: getattr(arguments, name) for name in TARGET} == TARGET
    elif arguments.command == "tracker":
        assert _tracker_target(arguments)[1].items() <= TARGET.items()
    else:
        assert session_target(arguments, arguments.session)[1] == TARGET
    if not server and root is not None:
        assert arguments.storage == str(root / "storage")


def test_a_refusal_ends_with_the_command_that_clears_the_lock(side: Side, server: str) -> None:
    SessionLock(storage(side) / "tracking_data" / "session_lock.yaml").acquire(generate_manager_id())
    reply = side.ask("lock_acquire", holder={"manager_id": 7})
    pasted(message_of(reply), "lock", "release", server=server, root=side.root)
    assert message_of(reply).endswith(reply["error"]["remedy"])


def storage(side: Side) -> Path:
    return side.root / "storage" / "Project" / "305" / SESSION


def test_unreadable_state_files_name_the_command_that_resets_them(side: Side, server: str) -> None:
    side.take_lock()
    (storage(side) / "tracking_data" / "session_lock.yaml").write_bytes(b"[]")
    (storage(side) / "tracking_data" / "behavior_processing_tracker.yaml").write_bytes(b"[]")
    (side.root / "storage" / "Project" / "manifest_generation_tracker.yaml").write_bytes(b"[]")
    pasted(side.get("lock_show")["description"], "lock", "release", server=server, root=side.root)
    found = side.get("tracker_show", pipeline="BEHAVIOR")["problem"]
    pasted(found, "tracker", "reset", server=server, root=side.root)
    found = side.get("tracker_show", pipeline="MANIFEST", animal="", session="")["problem"]
    pasted(found, "tracker", "reset", server=server, root=side.root)


def test_a_foreign_tracker_names_the_command_that_resets_it(side: Side, server: str) -> None:
    ProcessingTracker(storage(side) / "tracking_data" / "behavior_processing_tracker.yaml").start(7)
    side.take_lock()
    reply = side.ask("submit", pipeline="BEHAVIOR", graph=GRAPH, manager_id=side.manager_id)
    pasted(message_of(reply), "tracker", "reset", server=server, root=side.root)


def test_live_jobs_that_do_not_admit_a_manager_are_named_with_the_command_that_ends_them(
    side: Side, server: str
) -> None:
    side.take_lock()
    view = side.submit([("slow", "sleep 60")], settings={"a": 1})
    side.wait(view, lambda v: states(v)["slow"] == "RUNNING")
    other = {"wish": {"BEHAVIOR": {"a": 2}}, "holder": {"manager_id": side.manager_id}}
    reply = side.ask("lock_acquire", **other)
    assert "Nothing was changed. Run the same pipeline again" in message_of(reply)
    pasted(message_of(reply), "cancel", server=server, root=side.root)
    pasted(message_of(side.ask("lock_force")), "cancel", server=server, root=side.root)
    before = message_of(side.ask("lock_force")).rpartition(", or end them")[0]
    pasted(before.replace("`", ""), "lock", "release", server=server, root=side.root)
    reply = side.ask("submit", pipeline="BEHAVIOR", graph=GRAPH, settings={"a": 2}, manager_id=side.manager_id)
    pasted(message_of(reply), "cancel", server=server, root=side.root)
    side.get("cancel_all")


def test_what_the_manager_knows_of_a_holder_comes_before_the_command() -> None:
    refusal = SessionLock(Path("/data/P/305/S/tracking_data/session_lock.yaml"))
    state = refusal.read()
    told = refusal.refusal(state, "It was refused").with_facts("Its process lives.")
    assert str(told).endswith("nothing was changed. Its process lives. Try again.")


def test_jobs_that_refuse_name_the_command_that_helps(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME_VARIABLE, server)
    paths = session(tmp_path)
    prepare(paths, nothing)
    process(paths)
    record = {"outputs": [{"path": "processed_data/gone.feather", "size": 1, "xxh3_128": "0" * 32}]}
    (paths.tracking_data / "results").mkdir()
    (paths.tracking_data / "results" / "BEHAVIOR.json").write_text(json.dumps(record))
    pasted(words_of(lambda: archive(paths, nothing)), "run", "behavior", server=server, root=tmp_path)
    (paths.tracking_data / "results" / "BEHAVIOR.json").write_text("{")
    pasted(words_of(lambda: archive(paths, nothing)), "run", "behavior", server=server, root=tmp_path)
    ProcessingTracker(paths.tracker(ProcessingPipelines.PREPARATION)).start(7)
    pasted(words_of(lambda: archive(paths, nothing)), "tracker", "reset", server=server, root=tmp_path)
    for content in (b"none", None):
        checksum = paths.raw_data / "ax_checksum.txt"
        checksum.write_bytes(content) if content else checksum.unlink()
        words = words_of(lambda: verify(paths))
        assert "--regenerate" in words
        pasted(words, "run", "checksum", server=server, root=tmp_path)


def words_of(work: object) -> str:
    with pytest.raises(SessionflowError) as error:
        work()  # type: ignore[operator]
    return str(error.value)


def test_a_job_is_told_what_the_manager_calls_the_server(side: Side) -> None:
    side.arguments["site"]["name"] = "the lab"
    side.take_lock()
    view = side.submit([("say", f'echo "called ${NAME_VARIABLE}" >&2; exit 1')])
    view = side.wait(view, lambda v: v["jobs"][0]["ended"] != "")
    assert view["jobs"][0]["tail"] == ["called the lab"]
