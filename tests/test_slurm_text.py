"""What Slurm prints and what we read in it: real output of Slurm 22.05, and what other versions are known to print."""

from __future__ import annotations

import pytest

from trackers.slurm_text import (
    STATES,
    QueuedJob,
    Refusal,
    by_key,
    in_words,
    is_hopeless,
    parse_job_id,
    parse_kill_wait,
    parse_sacct,
    parse_squeue,
    refusal_of,
    says_out_of_memory,
    slurm_words,
)
from trackers.states import JobState

SQUEUE = """\
3|FAILED|NonZeroExitCode|0|768|2026-11-25T03:28:34|2026-11-25T03:28:35|node2|sessionflow-0a1b2c3d4e5f-encoder-1 anna|
2|PENDING|Dependency|0|0|2026-11-25T03:28:34|N/A||sessionflow-0a1b2c3d4e5f-face-camera-2|
1|RUNNING|None|2|0|2026-11-25T03:28:34|2026-11-25T03:28:40|node1|sessionflow-abc-plane-1-1 asked by "x | y" $(z)|
17|RUNNING|None|0|0|2026-11-25T03:28:34|2026-11-25T03:28:40|node1||
"""
SACCT = """\
12|sessionflow-abc-plane-1-1|FAILED|0:9|node1|2026-11-25T03:28:34|2026-11-25T03:28:36|75|150|01:10.500|
12.batch|batch|FAILED|0:9|node1|2026-11-25T03:28:36|2026-11-25T03:28:36|75|150|01:10.500|1953125K
13|sessionflow-abc-plane-2-1|REQUEUED|0:0|node1|2026-11-25T03:28:34|2026-11-25T03:28:34|2|2|00:00.001|
13.batch|batch|CANCELLED|0:15|node1|2026-11-25T03:28:34|2026-11-25T03:28:34|2|2|00:00.001|
13|sessionflow-abc-plane-2-1|CANCELLED by 1000|0:0|None assigned|2026-11-25T03:28:36|Unknown|0|0|00:00:00|
14|of an earlier life of this cluster|COMPLETED|0:0|node2|2025-11-25T03:28:34|2025-11-25T03:28:36|1|1|00:00:01|
14|other|COMPLETED|0:0|node2|2026-11-25T03:28:34|2026-11-25T03:28:36|90061|1|1-01:01:01|
"""


def test_squeue_is_read_line_by_line_with_comments_that_hold_anything() -> None:
    failed, pending, running, foreign = parse_squeue(SQUEUE)
    assert (failed.state, failed.exit_code, failed.signal, failed.key) == (
        JobState.FAILED,
        3,
        0,
        "sessionflow-0a1b2c3d4e5f-encoder-1",
    )
    assert (pending.state, pending.reason, pending.started) == (JobState.PENDING, "Dependency", "")
    assert (running.restarts, running.key, running.queued_seconds) == (2, "sessionflow-abc-plane-1-1", 6.0)
    assert foreign.key == ""
    assert set(by_key([failed, pending, running, foreign])) == {failed.key, pending.key, running.key}


@pytest.mark.parametrize("text", ["", "\n", "squeue: error\n", "12|RUN", "x|RUNNING|None|0|0|a|b|c|sessionflow-1|\n"])
def test_lines_that_are_none_of_squeues_are_passed_over(text: str) -> None:
    assert parse_squeue(text) == []


def test_accounting_gives_each_job_the_memory_of_its_steps_and_how_often_it_was_requeued() -> None:
    jobs = parse_sacct(SACCT)
    assert set(jobs) == {"12", "13", "14"}
    assert jobs["12"].memory_gb == pytest.approx(2.0)
    assert (jobs["12"].signal, jobs["12"].cpu_seconds, jobs["12"].ran_seconds) == (9, 70.5, 75.0)
    assert (jobs["13"].state, jobs["13"].restarts, jobs["13"].node) == (JobState.CANCELLED, 1, "")
    assert (jobs["14"].restarts, jobs["14"].cpu_seconds) == (0, 90061)


@pytest.mark.parametrize("word", STATES)
def test_every_state_of_slurm_has_one_of_ours(word: str) -> None:
    [job] = parse_squeue(f"1|{word}|None|0|0|2026-11-25T03:28:34|N/A||k|\n")
    assert job.state is STATES[word]


def test_a_state_that_is_not_known_is_no_state() -> None:
    [job] = parse_squeue("1|FLOATING|None|0|0|2026-11-25T03:28:34|N/A||k|\n")
    assert job.state is None


@pytest.mark.parametrize(
    ("printed", "number"),
    [("123\n", "123"), ("123;cluster\n", "123"), ("warning\n7\n", "7"), ("", None), ("x\n", None)],
)
def test_the_id_is_the_last_line_that_sbatch_prints(printed: str, number: str | None) -> None:
    assert parse_job_id(printed) == number


def failed(words: str, first: str = "") -> str:
    """Return sbatch's last line, after the line that names the limit or the option."""
    return (f"sbatch: error: {first}\n" if first else "") + f"sbatch: error: Batch job submission failed: {words}"


POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.mark.parametrize(
    ("errors", "why"),
    [
        (failed("Socket timed out on send/recv operation"), Refusal.DOUBT),
        (failed("Unable to contact slurm controller (connect failure)"), Refusal.DOUBT),
        (failed("Zero Bytes were transmitted or received"), Refusal.DOUBT),
        ("slurm_persist_conn_open_without_init: failed to open persistent connection", Refusal.DOUBT),
        ("", Refusal.DOUBT),
        (failed(POLICY, "AssocMaxSubmitJobLimit"), Refusal.LIMIT),
        (failed(POLICY, "QOSMaxSubmitJobPerUserLimit"), Refusal.LIMIT),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying.", Refusal.LIMIT),
        (failed(POLICY, "AssocMaxWallDurationPerJobLimit"), Refusal.FINAL),
        (
            failed("Requested node configuration is not available", "Memory specification can not be satisfied"),
            Refusal.FINAL,
        ),
        (failed("Invalid partition name specified", "invalid partition specified: moon"), Refusal.FINAL),
        ("sbatch: error: Invalid generic resource (gres) specification", Refusal.FINAL),
        ("sbatch: unrecognized option '--foo'\nTry \"sbatch --help\" for more information", Refusal.FINAL),
    ],
)
def test_what_sbatch_says_is_a_doubt_a_limit_or_final(errors: str, why: Refusal) -> None:
    assert refusal_of(errors, timed_out=False) is why
    assert refusal_of(errors, timed_out=True) is Refusal.DOUBT


def test_slurms_words_are_kept_without_its_programs_names() -> None:
    said = "sbatch: error: invalid partition specified: moon\nsbatch: error: Batch job submission failed: Invalid"
    assert slurm_words(said) == "invalid partition specified: moon; Batch job submission failed: Invalid"


@pytest.mark.parametrize(
    ("reason", "words", "hopeless"),
    [
        ("Priority", "other jobs come first (Priority)", False),
        ("QOSMaxJobsPerUserLimit", "a limit of its account or QOS is reached (QOSMaxJobsPerUserLimit)", False),
        ("AssocMaxCpuPerJobLimit", "a limit of its account or QOS is reached (AssocMaxCpuPerJobLimit)", True),
        ("PartitionConfig", "no node of its partition has what it asks for (PartitionConfig)", True),
        ("ReqNodeNotAvail,_UnavailableNodes:node1", None, False),
        ("Sunspots", "Sunspots", False),
        ("", "", False),
    ],
)
def test_a_pending_jobs_reason_is_said_in_words(reason: str, words: str | None, hopeless: bool) -> None:
    job = QueuedJob("1", "k", JobState.PENDING, "PENDING", reason)
    assert words is None or in_words(job) == words
    assert reason in in_words(job)
    assert is_hopeless(job) is hopeless


@pytest.mark.parametrize(
    ("log", "memory"),
    [
        ("slurmstepd: error: Job 12 exceeded memory limit (1500 > 1000), being killed", True),
        ("slurmstepd: error: Exceeded job memory limit", True),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.batch.", True),
        ("slurmstepd: error: *** JOB 1 ON node1 CANCELLED AT 2026-11-25T03:59:25 ***", False),
    ],
)
def test_a_log_tells_that_a_job_ran_out_of_memory(log: str, memory: bool) -> None:
    assert says_out_of_memory(log) is memory


def test_kill_wait_is_read_from_the_configuration() -> None:
    assert parse_kill_wait("JobRequeue  = 1\nKillWait                = 30 sec\nMinJobAge = 300 sec\n") == 30
    assert parse_kill_wait("nothing") is None
