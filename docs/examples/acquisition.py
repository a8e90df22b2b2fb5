"""The end of an acquisition script: have the recording processed, and mark what may be removed here.

Copy it together with `launch.py` (it is sessionflow's flows/launch.py) to the rig, and once write the rig's address and
login down: `sessionflow rig add NAME --api ADDRESS --file rig.json`, and put that file beside them.

    python acquisition.py record PROJECT ANIMAL SESSION     when a recording has ended and its data is on the server
    python acquisition.py tidy                              now and then: which local copies may be removed?
"""

import json
import sys
from pathlib import Path

try:
    import launch as sessionflow  # the copy beside this file
except ImportError:
    from flows import launch as sessionflow  # sessionflow is installed here

RUNS = Path("launched.json")  # what was launched, by session


def record(project: str, animal: str, session: str) -> None:
    """Launch the processing of a recording that has just ended; this takes two seconds at most and raises nothing."""
    done = sessionflow.launch("process-session", project=project, animal=animal, session=session)
    print(done.words)
    runs = json.loads(RUNS.read_text()) if RUNS.exists() else {}
    runs[session] = {"project": project, "animal": animal, "run": done.run_id}
    RUNS.write_text(json.dumps(runs, indent=1))


def tidy() -> None:
    """Say of every session that was launched whether its local copy may be removed."""
    runs = json.loads(RUNS.read_text()) if RUNS.exists() else {}
    for session, what in runs.items():
        if what["run"]:
            found = sessionflow.outcome(what["run"])
        else:  # the server was away when it was launched, and the request was sent later
            found = sessionflow.latest(
                "process-session", project=what["project"], animal=what["animal"], session=session
            )
        if found.verified:  # neither where it is False, nor where it is None: not known
            print(f"{session}: the server's copy is verified; the one here may be removed")
        else:
            print(f"{session}: keep it. {found.words}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["record"] and len(sys.argv) == 5:
        record(*sys.argv[2:])
    elif sys.argv[1:] == ["tidy"]:
        tidy()
    else:
        sys.exit(__doc__)
