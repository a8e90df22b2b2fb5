"""The job script: shell alone around one command, keeping its own records beside it."""

from __future__ import annotations

import shlex
import stat
from pathlib import Path

from trackers.graph import Job
from trackers.states import ExitRecord
from trackers.submission import AttemptFiles

TERM_GRACE_SECONDS = 5  # between TERM and KILL; a cancel is to be over within 10 s
CLAIMED_EXIT_CODE = 112

# The claim lets one copy of an attempt run its command: a submission that was thought lost may still land later.
# The command gets a process group of its own, so that TERM reaches all of it, and KILL what is left of it.
_SCRIPT = """\
#!/bin/bash
#{key}
umask {umask}
cd {directory} || exit 111
restart=${{SLURM_RESTART_COUNT:-0}}
me=${{SLURM_JOB_ID:-$$.$RANDOM$RANDOM}}
announce() {{ : > {announcement}; }} 2>/dev/null
if ! (set -o noclobber; echo "$me" > "claim.$restart") 2>/dev/null; then
  read -r owner < "claim.$restart"
  if [ "$owner" != "$me" ]; then
    echo "another copy of this job runs as $owner; this one, $me, leaves" >&2
    exit {claimed}
  fi
fi
printf '%s %s %(%s)T\\n' "$me" "$HOSTNAME" -1 > ".started.$restart" && mv ".started.$restart" "started.$restart"
announce
child= killer= terminated=0
end() {{
  terminated=1
  [ -n "$child" ] || return
  kill -TERM -- "-$child" 2>/dev/null
  [ -n "$killer" ] && return
  (sleep {grace}; kill -KILL -- "-$child") </dev/null >/dev/null 2>&1 &
  killer=$!
}}
trap end TERM INT
set -m
(
  cd {working_directory} || exit 113
  export SESSIONFLOW_JOB_KEY={key} SESSIONFLOW_REPORT={report}{variables}
  exec {command}
) >>output.log 2>>errors.log </dev/null &
child=$!
set +m
[ "$terminated" = 1 ] && end
while :; do
  wait "$child"
  code=$?
  kill -0 "$child" 2>/dev/null || break
done
if [ "$terminated" = 1 ]; then
  wait "$child" 2>/dev/null
  late=$?
  [ "$late" = 127 ] || code=$late
fi
kill -KILL -- "-$child" 2>/dev/null
[ -n "$killer" ] && kill -KILL "$killer" 2>/dev/null
echo "$code $terminated" > ".exit.$restart" && sync ".exit.$restart" 2>/dev/null
mv ".exit.$restart" "exit.$restart"
announce
exit "$code"
"""


def job_script(job: Job, key: str, files: AttemptFiles, announcements: Path, command: tuple[str, ...]) -> str:
    """Return the script of one attempt.

    Args:
        job: whose variables and working directory it sets.
        key: names submission, job and attempt.
        files: where it keeps its records; the directory exists.
        announcements: the folder in which it leaves its key when it began or ended, so that nobody need search.
        command: the argument list, with the interpreter resolved.
    """
    group_writable = stat.S_IMODE(files.directory.parent.stat().st_mode) & stat.S_IWGRP
    return _SCRIPT.format(
        key=key,
        umask="0002" if group_writable else "0022",
        directory=shlex.quote(str(files.directory)),
        announcement=shlex.quote(str(announcements / key)),
        claimed=CLAIMED_EXIT_CODE,
        grace=TERM_GRACE_SECONDS,
        working_directory=shlex.quote(job.working_directory or str(files.directory)),
        report=shlex.quote(str(files.report)),
        variables="".join(f" {name}={shlex.quote(value)}" for name, value in sorted(job.variables.items())),
        command=shlex.join(command),
    )


def parse_exit_record(text: str) -> ExitRecord | None:
    """Read an exit record: the exit code, and 1 where the script had been told to end; None where it is no record."""
    words = text.split()
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return None
    return ExitRecord(int(words[0]), words[1] != "0")
