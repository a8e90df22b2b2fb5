"""What several tests need: a small project on disk and ways to talk to the server side."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from trackers.graph import Graph, Job, Resources, Stage
from trackers.lock import Holder
from trackers.manager import generate_manager_id
from trackers.processes import ProcessIdentity
from trackers.server import answer

pytest_plugins = ["tests.cluster_fixtures", "tests.flow_process", "tests.lab"]

# What a script starts in its background ignores Ctrl-C and hands that on to whatever it starts; here Ctrl-C is pressed.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SESSION = "2025-08-26-18-30-15-123456"
SESSION_DATA = """---
project_name: {project}
animal_id: '{animal}'
session_name: {session}
session_type: {kind}
acquisition_system: mesoscope-vr
experiment_name: null
python_version: 3.11.13
sl_experiment_version: 3.0.3
raw_data: null
processed_data: null
...
"""


def make_session(
    storage: Path,
    project: str = "Project",
    animal: str = "305",
    session: str = SESSION,
    kind: str = "run training",
    *,
    complete: bool = True,
) -> Path:
    """Write the least that is a session; return its folder."""
    directory = storage / project / animal / session
    raw_data = directory / "raw_data"
    raw_data.mkdir(parents=True)
    (raw_data / "session_data.yaml").write_text(
        SESSION_DATA.format(project=project, animal=animal, session=session, kind=kind)
    )
    if complete:
        (raw_data / "telomere.bin").touch()
    return directory


class Side:
    """The server side, in this process, for one session."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.arguments: dict[str, Any] = {
            "site": {"storage": str(root / "storage"), "working": str(root / "working")},
            "project": "Project",
            "animal": "305",
            "session": SESSION,
        }
        self.incarnation = ""
        self.manager_id = generate_manager_id()

    def ask(self, call: str, **arguments: Any) -> dict[str, Any]:
        """Return the whole answer."""
        return answer({"call": call, "arguments": {**self.arguments, "incarnation": self.incarnation, **arguments}})

    def get(self, call: str, **arguments: Any) -> Any:
        """Return the result; an error fails the test."""
        reply = self.ask(call, **arguments)
        assert "error" not in reply, reply["error"]
        return reply["result"]

    def take_lock(self, wish: dict[str, Any] | None = None) -> dict[str, Any]:
        """Take the session's lock as `manager_id`, which may become the recorded one."""
        holder = Holder(self.manager_id, process=ProcessIdentity.of_this_process())
        granted: dict[str, Any] = self.get("lock_acquire", holder=asdict(holder), wish=wish or {})
        self.incarnation, self.manager_id = granted["incarnation"], granted["manager_id"]
        return granted

    def submit(self, *stages: list[tuple[str, str]], pipeline: str = "BEHAVIOR", **arguments: Any) -> dict[str, Any]:
        """Submit stages of (name, shell command)."""
        graph = Graph(
            tuple(
                Stage(f"stage-{n}", tuple(Job(name, ("bash", "-c", text), Resources()) for name, text in jobs))
                for n, jobs in enumerate(stages)
            )
        )
        result: dict[str, Any] = self.get(
            "submit", pipeline=pipeline, graph=graph.to_json(), manager_id=self.manager_id, **arguments
        )
        return result

    def watch(self, view: dict[str, Any]) -> dict[str, Any]:
        """Return the submission as it is now."""
        result: dict[str, Any] = self.get("watch", pipeline=view["pipeline"], number=view["number"])
        return result

    def wait(
        self, view: dict[str, Any], until: Callable[[dict[str, Any]], bool], seconds: float = 20.0
    ) -> dict[str, Any]:
        """Watch a submission until `until` holds."""
        deadline = time.monotonic() + seconds
        while not until(view := self.watch(view)):
            assert time.monotonic() < deadline, view
            time.sleep(0.05)
        return view


def states(view: dict[str, Any]) -> dict[str, str]:
    """Return each job's state."""
    return {job["name"]: job["state"] for job in view["jobs"]}


def all_ended(view: dict[str, Any]) -> bool:
    """Whether no job runs or will run."""
    return all(job["ended"] or job["blocked"] for job in view["jobs"])


@pytest.fixture
def side(tmp_path: Path) -> Side:
    make_session(tmp_path / "storage")
    (tmp_path / "working").mkdir()
    return Side(tmp_path)


@pytest.fixture(autouse=True)
def _no_test_silences_the_next() -> Iterator[None]:
    yield
    os.environ.pop("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", None)  # the command sets it for its own process


LONGEST = ("test_suite2p", "test_project", "test_interruptions", "test_forging", "test_forging_flow", "test_multiday")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: one that is left to the end is waited for while a core has nothing to do.

    With `--no-loadscope-reorder`, without which xdist begins with the files that have the most tests.
    """
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
