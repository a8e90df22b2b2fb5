"""`python -m benchmarks.measured LOG COMMAND …`: run a job's command, and add what it cost to a file, as JSON."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """Run the command; exit as it did."""
    log, *command = sys.argv[1:]
    started = time.monotonic()
    done = subprocess.run(command, check=False)
    seconds, used = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = {"seconds": seconds, "processor": used.ru_utime + used.ru_stime, "gigabytes": used.ru_maxrss / 1e6}
    with Path(log).open("a") as file:
        file.write(json.dumps({"command": command, **cost}) + "\n")
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
