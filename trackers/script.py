"""The job script: shell alone around one command, keeping its own records beside it."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Sequence
from pathlib import Path

from trackers.graph import Job
from trackers.site import Environment
from trackers.states import ExitRecord, Sighting
from trackers.submission import REVOKED, AttemptFiles

TERM_GRACE_SECONDS = 5  # between TERM and KILL; a cancel is to be over within 10 s
PREDECESSOR_SECONDS = 90  # a network file system may show another node's records late
SET_BY_SLURM = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT")  # read by the script: never those of a job around us
ASKING_SECONDS = 6  # for Slurm's word on a job whose record is not seen: it may take a moment to say COMPLETED

# The claim lets one copy of an attempt run its command: a submission that was thought lost may still land later.
# The look at the jobs before it guards against a controller that has forgotten them: to Slurm, a dependency on a job
# that it no longer knows is fulfilled. A record that a network file system shows late is not waited for where Slurm
# remembers that the job succeeded. The command gets a process group of its own, so that TERM reaches all of it, and
# KILL what is left of it; a program that has left the group is found by the key in its environment.
_SCRIPT = """\
#!/bin/bash
#{key}
umask {umask}
cd {directory} || exit 111
restart=${{SLURM_RESTART_COUNT:-0}}
me=${{SLURM_JOB_ID:-$$.$RANDOM$RANDOM}}
child= terminated=0
end() {{ terminated=1; [ -n "$child" ] && kill -TERM -- "-$child" 2>/dev/null; }}
trap end TERM INT  # before the claim: who has claimed must write how it ended
announce() {{ : > {announcement}; }} 2>/dev/null
leave() {{ echo "$2; this copy, $me, leaves" >&2; exit "$1"; }}
ended() {{
  local code=$1
  trap '' TERM INT
  echo "$code $terminated $SECONDS $2 $3" > ".exit.$restart" && sync ".exit.$restart" 2>/dev/null
  mv ".exit.$restart" "exit.$restart" || code=115
  announce
  exit "$code"
}}
claim() {{
  local owner=
  set -o noclobber
  {{ echo "$me" > "claim.$1"; }} 2>/dev/null && set +o noclobber && return
  set +o noclobber
  [ -e "claim.$1" ] && read -r owner < "claim.$1"
  case $owner in
    "$me") ;;
    {revoked}) leave 112 "this job was given up" ;;
    '') leave 115 "the claim could not be written: is the volume full?" ;;
    *) leave 112 "another copy of this job runs as $owner" ;;
  esac
}}
[ "$terminated" = 0 ] || leave 143 "it was told to end before it began"
claim 0
[ "$restart" = 0 ] || claim "$restart"
[ -e "exit.$restart" ] && rm -f "exit.$restart"  # a controller that was killed starts a job again under its old id
printf '%s %s %(%s)T\\n' "$me" "$HOSTNAME" -1 > ".started.$restart" && mv ".started.$restart" "started.$restart"
announce
succeeded() {{
  local record line
  for record in ../../"$1"/*/exit.*; do
    [ -e "$record" ] && read -r line < "$record" && case $line in '0 0 '*) return 0 ;; esac
  done
  return 1
}}
slurm_says_so() {{
  local folder
  for folder in ../../"$1"/*; do
    [ -s "$folder/scheduler_id" ] || continue
    [ "$(squeue --noheader --states=all --jobs="$(< "$folder/scheduler_id")" --format="%T %j" 2>/dev/null)" = \
      "COMPLETED {submission}-$1-${{folder##*/}}" ] && return 0
  done
  return 1
}}
for earlier in {earlier}; do
  until succeeded "$earlier" || {{ [ "$SECONDS" -lt {asking} ] && slurm_says_so "$earlier"; }}; do
    [ "$terminated" = 0 ] || break 2
    [ "$SECONDS" -lt {patience} ] || leave 114 "$earlier, which comes before, has not succeeded"
    sleep 2
  done
done
[ "$terminated" = 0 ] || ended 143 0m0s 0m0s  # by a cancel, before its command began
set -m
(
  cd {working_directory} || exit 113
  export SESSIONFLOW_JOB_KEY={key} SESSIONFLOW_REPORT={report}{variables}
{activation}  exec {command}
) >>output.log 2>>errors.log </dev/null &
child=$!
set +m
[ "$terminated" = 1 ] && end
wait "$child" 2>/dev/null  # else bash says of a killed command all that it was
code=$?
if [ "$terminated" = 1 ]; then
  exec 9<> <(:)  # nothing ever comes from it: reading it is a sleep without a process
  for _ in {{1..{grace_tenths}}}; do
    kill -0 -- "-$child" 2>/dev/null || break
    read -rt 0.1 -u 9
  done
fi
kill -KILL -- "-$child" 2>/dev/null
if [ "$terminated" = 1 ]; then
  wait "$child" 2>/dev/null
  late=$?  # 127, or -1 from some versions of bash, where the end has been reported already
  [ "$late" -ge 0 ] && [ "$late" -ne 127 ] && code=$late
  for left in $(grep -lzsx {variable} /proc/[0-9]*/environ); do
    left=${{left#/proc/}} left=${{left%/environ}}
    [ "$left" = "$$" ] || kill -KILL "$left" 2>/dev/null
  done
fi
times > .times
{{ read -r _; read -r user system; }} < .times
ended "$code" "$user" "$system"
"""


def job_script(
    job: Job,
    key: str,
    files: AttemptFiles,
    announcements: Path,
    command: tuple[str, ...],
    *,
    environment: Environment,
    earlier: Sequence[str] = (),
) -> str:
    """Return the script of one attempt.

    Args:
        job: whose variables and working directory it sets.
        key: names submission, job and attempt.
        files: where it keeps its records; the directory exists.
        announcements: the folder in which it leaves its key when it began or ended, so that nobody need search.
        command: the argument list, with the interpreter resolved.
        environment: what the command needs around it.
        earlier: the jobs of the stage before, which must have succeeded.
    """
    group_writable = stat.S_IMODE(files.directory.parent.stat().st_mode) & stat.S_IWGRP
    activation = f"  {{\n{environment.activate}\n  }} || exit 116\n" if environment.activate else ""
    return _SCRIPT.format(
        key=key,
        umask="0002" if group_writable else "0022",
        directory=shlex.quote(str(files.directory)),
        announcement=shlex.quote(str(announcements / key)),
        revoked=REVOKED,
        earlier=" ".join(earlier),  # job names need no quotes
        patience=PREDECESSOR_SECONDS,
        asking=ASKING_SECONDS,
        submission=key.rsplit(f"-{job.name}-", 1)[0],
        grace_tenths=TERM_GRACE_SECONDS * 10,
        working_directory=shlex.quote(job.working_directory or str(files.directory)),
        report=shlex.quote(str(files.report)),
        variables="".join(f" {name}={shlex.quote(value)}" for name, value in sorted(job.variables.items())),
        variable=shlex.quote(f"SESSIONFLOW_JOB_KEY={key}"),
        activation=activation,
        command=shlex.join(command),
    )


def exit_record(files: AttemptFiles, sighting: Sighting | None) -> ExitRecord | None:
    """Return how an attempt's command ended; only the record of its newest restart counts."""
    restarts = sighting.restarts if sighting is not None else None
    if restarts is None:
        restarts = (files.owner() or (0, ""))[0]
    try:
        return parse_exit_record(files.exit_record(restarts).read_text())
    except (OSError, UnicodeDecodeError):
        return None


def parse_exit_record(text: str) -> ExitRecord | None:
    """Read an exit record; None where it is none.

    It holds the exit code, 1 where the script had been told to end, the seconds that it ran, and user and system time
    of the command as bash's `times` prints them, e.g. `0 0 75 1m12.250s 0m0.750s`.
    """
    words = text.split()
    if len(words) < 2 or not all(word.isdecimal() for word in words[:2]):
        return None
    seconds = float(words[2]) if len(words) > 2 and words[2].isdecimal() else None
    spent = [_seconds(word) for word in words[3:5]]
    cpu_seconds = None if len(spent) < 2 or None in spent else sum(s for s in spent if s is not None)
    return ExitRecord(int(words[0]), words[1] != "0", seconds, cpu_seconds)


def _seconds(word: str) -> float | None:
    """Read `1m12.250s`; some locales write a comma."""
    minutes, _, rest = word.removesuffix("s").replace(",", ".").partition("m")
    try:
        return int(minutes) * 60 + float(rest)
    except ValueError:
        return None
