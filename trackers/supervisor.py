"""The detached process that runs one submission's local jobs: `python -m trackers.supervisor FOLDER NUMBER CORES`."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

from trackers.graph import Job
from trackers.kill import KEY_VARIABLE, end_processes, processes_of
from trackers.local import SUPERVISOR_LOCK
from trackers.script import SET_BY_SLURM, TERM_GRACE_SECONDS, parse_exit_record
from trackers.shares import CoreShares, core_count, is_held, try_lock
from trackers.submission import AttemptFiles, Submission, SubmissionFolder

WAKE_SECONDS = 0.25  # between looks at jobs that another supervisor started; children of this one wake it


class Supervisor:
    """Starts each job when its stage's turn has come and there are cores for it; keeps nothing that is not on disk."""

    def __init__(self, folder: SubmissionFolder, number: int, shares: CoreShares) -> None:
        self._folder = folder
        self._number = number
        self._shares = shares
        self._children: dict[int, str] = {}
        self._wakeup = _wake_on_children()

    def run(self) -> None:
        """Work until nothing runs and nothing can be started."""
        while self._step():
            select.select([self._wakeup], [], [], WAKE_SECONDS)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup, 4096)
            self._reap()
        self._shares.give_up()

    def _step(self) -> bool:
        """Start what can be started, end what has run too long; tell whether there is something to wait for."""
        submission = self._folder.read(self._number)
        if not submission.open or submission.cancelling:
            self._shares.give_up()
            return bool(self._running(submission))
        while waiting := self._startable(submission):
            cores = self._shares.collect(waiting[0].resources.cpus)
            if cores is None:
                break
            submission = self._start(waiting[0], cores)
        running = self._running(submission)
        for job in running:
            self._end_if_too_long(submission, job)
        return bool(running or waiting)

    def _startable(self, submission: Submission) -> list[Job]:
        return [
            job for job in submission.graph.jobs() if self._unbegun(submission, job) and self._ready(submission, job)
        ]

    def _unbegun(self, submission: Submission, job: Job) -> bool:
        files = self._files(submission, job)
        return files.script.exists() and not files.begun.exists()

    def _ready(self, submission: Submission, job: Job) -> bool:
        earlier = submission.graph.stages[: submission.graph.stage_of(job.name)]
        return all(self._succeeded(submission, j) for stage in earlier for j in stage.jobs)

    def _succeeded(self, submission: Submission, job: Job) -> bool:
        if submission.succeeded(job.name):
            return True
        try:
            record = parse_exit_record(self._files(submission, job).exit_record().read_text())
        except OSError:
            return False
        return record is not None and record.exit_code == 0 and not record.terminated

    def _running(self, submission: Submission) -> list[Job]:
        return [job for job in submission.graph.jobs() if is_held(self._files(submission, job).life)]

    def _start(self, job: Job, cores: list[int]) -> Submission:
        """Start a job under the submission's lock, so that a cancel is either seen here or sees the job."""
        life = None
        try:
            with self._folder.lock():
                submission = self._folder.read(self._number)
                if submission.cancelling or not submission.open:
                    return submission
                files = self._files(submission, job)
                life = try_lock(files.life)
                if life is not None:
                    self._warn_if_too_large(job, files)
                    self._spawn(submission, job, files, [life, *cores])
                return submission
        finally:
            for descriptor in (*cores, *([] if life is None else [life])):
                os.close(descriptor)

    def _spawn(self, submission: Submission, job: Job, files: AttemptFiles, locks: list[int]) -> None:
        key = submission.key(job.name, submission.last(job.name).number)
        files.begun.touch()  # before the process: whatever happens now, nobody starts this attempt again
        with (files.directory / "script.log").open("ab") as log:
            child = subprocess.Popen(
                ["/bin/bash", str(files.script)],
                env={name: value for name, value in os.environ.items() if name not in SET_BY_SLURM}
                | {KEY_VARIABLE: key},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=locks,
            )
        self._children[child.pid] = key

    def _reap(self) -> None:
        for pid, key in list(self._children.items()):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            del self._children[pid]
            if processes_of([key]):  # a program that left its group and outlived its job
                end_processes([key], 0)

    def _end_if_too_long(self, submission: Submission, job: Job) -> None:
        files = self._files(submission, job)
        attempt = submission.last(job.name)
        with contextlib.suppress(FileNotFoundError):
            ran = time.time() - files.begun.stat().st_mtime
            if ran > attempt.resources.minutes * 60:
                files.timed_out.touch()
                end_processes([submission.key(job.name, attempt.number)], TERM_GRACE_SECONDS + 1)

    def _warn_if_too_large(self, job: Job, files: AttemptFiles) -> None:
        if job.resources.cpus > core_count():
            with files.output.open("a") as log:
                log.write(
                    f"warning: {job.name} asks for {job.resources.cpus} cores and this computer has {core_count()}; "
                    "it runs alone\n"
                )

    def _files(self, submission: Submission, job: Job) -> AttemptFiles:
        return self._folder.attempt_files(submission, job.name, submission.last(job.name).number)


def _wake_on_children() -> int:
    """Return a descriptor that becomes readable whenever a child ends."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def main() -> None:
    """Supervise one submission, unless somebody does already."""
    folder, number, cores = SubmissionFolder(Path(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3])
    directory = folder.submission_directory(number)
    if try_lock(directory / SUPERVISOR_LOCK) is None:
        return
    if directory.stat().st_mode & stat.S_IWGRP:
        os.umask(0o002)
    Supervisor(folder, number, CoreShares(cores)).run()


if __name__ == "__main__":
    main()
