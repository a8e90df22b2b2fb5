"""The test cluster does what tests of the cluster rely on, with real Slurm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tasks.servers import Server
from tests.cluster import Cluster
from tests.daemon import ClusterError, UnavailableError, belonging, require, send, wait_until
from tests.wrappers import DOES_IT_BUT_TIMES_OUT, FAILS, HANGS, PRINTS_GARBAGE, PRINTS_HALF

StartCluster = Callable[..., Cluster]


def login(cluster: Cluster, command: str, seconds: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*cluster.sshd.ssh, command], check=False, capture_output=True, text=True, errors="replace", timeout=seconds
    )


def needs_the_programs() -> None:
    try:
        require("munged", "slurmctld", "slurmd", "sshd", "mariadbd", "slurmdbd")
    except UnavailableError as error:
        pytest.skip(str(error))


def states(cluster: Cluster, *jobs: str) -> list[str]:
    return [cluster.state(job) for job in jobs]


def test_a_job_runs_and_its_output_is_read(cluster: Cluster) -> None:
    job = cluster.submit("echo $SLURM_JOB_ID on $SLURMD_NODENAME")
    cluster.wait(job, "COMPLETED")
    assert cluster.output(job) == f"{job} on node1\n"


def test_a_login_finds_the_cluster_and_a_home_of_its_own(cluster: Cluster) -> None:
    job = login(cluster, "cd && sbatch --parsable --output=out --wrap 'echo here'").stdout.strip()
    cluster.wait(job, "COMPLETED")
    assert (cluster.folder / "home" / "out").read_text() == "here\n"


@pytest.mark.slow
def test_a_dependent_job_waits_and_stays_when_it_can_never_start(cluster: Cluster) -> None:
    first = cluster.submit("sleep 1; exit 3")
    second = cluster.submit("true", f"--dependency=afterok:{first}")
    assert cluster.job(first)["ExitCode"] == "0:0"
    assert cluster.wait(first, "FAILED")["ExitCode"] == "3:0"
    assert wait_until(lambda: cluster.job(second)["Reason"] == "DependencyNeverSatisfied", 10)
    assert cluster.state(second) == "PENDING"


@pytest.mark.slow
def test_jobs_run_on_while_the_controller_is_away(cluster: Cluster) -> None:
    first = cluster.submit("sleep 2")
    second = cluster.submit("true", f"--dependency=afterok:{first}")
    cluster.wait(first, "RUNNING")
    cluster.slurmctld.stop()
    assert not cluster.slurmctld.process
    cluster.slurmctld.start()
    cluster.wait(second, "COMPLETED")


@pytest.mark.slow
def test_a_killed_controller_comes_back_with_its_jobs(cluster: Cluster) -> None:
    first = cluster.submit("echo once; sleep 10")
    second = cluster.submit("true", f"--dependency=afterok:{first}")
    cluster.wait(first, "RUNNING")
    cluster.write_state()
    cluster.slurmctld.kill()
    cluster.slurmctld.start()
    cluster.wait(second, "COMPLETED")
    assert cluster.output(first) == "once\n"


@pytest.mark.slow
def test_a_killed_controller_starts_a_job_again_whose_start_it_had_not_written_down(own_cluster: StartCluster) -> None:
    cluster = own_cluster(nodes=1)
    job = cluster.submit("echo started; sleep 20", "--open-mode=append", "--begin=now+10")
    cluster.write_state()
    state, before = cluster.folder / "state", cluster.folder / "before"
    shutil.copytree(state, before)
    cluster.wait(job, "RUNNING")
    assert wait_until(lambda: cluster.output(job), 10)
    cluster.slurmctld.kill()
    shutil.rmtree(state)
    before.rename(state)  # whether it has written the start down is chance
    cluster.slurmctld.start()
    assert wait_until(lambda: cluster.output(job).count("started") == 2, 30)
    assert cluster.wait(job, "RUNNING")["Restarts"] == "0"


@pytest.mark.slow
def test_a_controller_that_hangs_answers_once_it_goes_on(cluster: Cluster) -> None:
    cluster.slurmctld.pause()
    with pytest.raises(ClusterError, match="has not ended"):
        cluster.command("squeue", seconds=2)
    cluster.slurmctld.resume()
    assert cluster.command("squeue", "--noheader") == ""


@pytest.mark.slow
def test_every_daemon_can_be_killed_and_started_again(cluster: Cluster) -> None:
    for daemon in cluster.daemons.values():
        daemon.kill()
        assert not daemon.process
        daemon.start()
    cluster.start()
    job = cluster.submit("true")
    cluster.wait(job, "COMPLETED")


@pytest.mark.slow
def test_a_job_outlives_its_nodes_daemon(cluster: Cluster) -> None:
    job = cluster.submit("sleep 2; echo done")
    cluster.wait(job, "RUNNING")
    cluster.slurmds["node1"].kill()
    assert wait_until(lambda: cluster.output(job) == "done\n", 10)
    cluster.slurmds["node1"].start()
    cluster.wait(job, "COMPLETED")


@pytest.mark.slow
def test_a_job_on_a_node_that_is_set_down_is_requeued_or_fails(cluster: Cluster) -> None:
    lost = cluster.submit("sleep 60", "--no-requeue")
    again = cluster.submit("sleep 60", "--requeue")
    cluster.wait(lost, "RUNNING")
    cluster.wait(again, "RUNNING")
    cluster.set_node("node1", "DOWN")
    cluster.wait(lost, "NODE_FAIL")
    assert cluster.wait(again, "PENDING")["Restarts"] == "1"
    assert "down" in cluster.command("sinfo", "--noheader", "--node=node1", "--format=%t")
    cluster.set_node("node1", "RESUME")
    cluster.wait_ready()


@pytest.mark.slow
def test_a_requeued_job_starts_at_once_under_its_old_id(cluster: Cluster) -> None:
    job = cluster.submit("echo ${SLURM_RESTART_COUNT:-0}; sleep 60")
    cluster.wait(job, "RUNNING")
    cluster.requeue(job)
    assert cluster.wait(job, "RUNNING")["Restarts"] == "1"
    assert wait_until(lambda: cluster.output(job) == "1\n", 10)


def test_a_jobs_processes_are_found_and_can_be_killed(cluster: Cluster) -> None:
    job = cluster.submit("sleep 61 & exec sleep 62")
    other = cluster.submit("sleep 63")
    cluster.wait(job, "RUNNING")
    cluster.wait(other, "RUNNING")
    assert wait_until(lambda: len(cluster.processes(job)) == 2, 10)
    for pid in cluster.processes(job):
        send(pid, signal.SIGKILL)
    assert cluster.wait(job, "FAILED")["ExitCode"] == "0:9"
    assert cluster.processes(job) == set()
    assert cluster.processes(other)


@pytest.mark.parametrize(
    ("text", "code", "fits"),
    [
        (FAILS, 1, lambda out: out.stderr.startswith("squeue: error: Unable to contact")),
        (PRINTS_GARBAGE, 0, lambda out: "�" in out.stdout),
        (PRINTS_HALF, 0, lambda out: 5 < len(out.stdout) < 70),
        ("echo $NAME $REAL $*", 0, lambda out: out.stdout == "squeue /usr/bin/squeue\n"),
    ],
    ids=["fails", "garbage", "half", "own"],
)
def test_a_program_can_be_made_to_answer_wrongly(
    cluster: Cluster, text: str, code: int, fits: Callable[[subprocess.CompletedProcess[str]], bool]
) -> None:
    cluster.wrap("squeue", text)
    wrong = login(cluster, "squeue")
    assert wrong.returncode == code
    assert fits(wrong), wrong
    cluster.unwrap("squeue")
    assert login(cluster, "squeue").stdout.split()[0] == "JOBID"


def test_a_program_can_be_made_to_answer_wrongly_some_times(cluster: Cluster) -> None:
    cluster.wrap("squeue", "exit 9", times=2)
    assert [login(cluster, "squeue").returncode for _ in range(3)] == [9, 9, 0]


def test_a_program_can_be_made_to_hang(cluster: Cluster) -> None:
    cluster.wrap("squeue", HANGS)
    with pytest.raises(subprocess.TimeoutExpired):
        login(cluster, "squeue", seconds=1)
    assert subprocess.run(["squeue"], env=cluster.environment | {"PATH": "/usr/bin"}, check=False).returncode == 0


def test_sbatch_can_submit_and_then_say_that_it_timed_out(cluster: Cluster) -> None:
    cluster.wrap("sbatch", DOES_IT_BUT_TIMES_OUT)
    said = login(cluster, "sbatch --output=/dev/null --comment=key --wrap 'sleep 60'")
    assert (said.returncode, said.stdout) == (1, "")
    assert "Socket timed out" in said.stderr
    assert cluster.command("squeue", "--noheader", "--format=%k") == "key\n"


@pytest.mark.slow
def test_gpus_are_given_out(own_cluster: StartCluster) -> None:
    cluster = own_cluster(gpus=2, nodes=1)
    cluster.wait(cluster.submit("sleep 60", "--gres=gpu:2"), "RUNNING")
    second = cluster.submit("true", "--gres=gpu:1")
    assert wait_until(lambda: cluster.job(second)["Reason"] == "Resources", 10)


def test_a_site_may_cancel_what_can_never_start(own_cluster: StartCluster) -> None:
    cluster = own_cluster(nodes=1, slurm_conf={"DependencyParameters": "kill_invalid_depend"})
    first = cluster.submit("false")
    second = cluster.submit("true", f"--dependency=afterok:{first}")
    third = cluster.submit("true", f"--dependency=afterok:{second}")
    cluster.wait(third, "CANCELLED")
    assert states(cluster, first, second) == ["FAILED", "CANCELLED"]


def test_an_account_may_not_see_the_jobs_of_others(own_cluster: StartCluster) -> None:
    cluster = own_cluster(nodes=1, slurm_conf={"PrivateData": "jobs"}, sshd={"account": "nobody"})
    cluster.submit("sleep 60")
    mine = login(cluster, "sbatch --parsable --output=/dev/null --chdir=/ --wrap 'sleep 60'").stdout.strip()
    assert login(cluster, "squeue --noheader --format=%i,%u").stdout == f"{mine},nobody\n"
    assert len(cluster.command("squeue", "--noheader").splitlines()) == 2


@pytest.mark.slow
def test_the_controller_forgets_a_job_after_min_job_age(own_cluster: StartCluster) -> None:
    cluster = own_cluster(nodes=1, slurm_conf={"MinJobAge": 5})
    job = cluster.submit("true")
    cluster.wait(job, "COMPLETED")
    assert wait_until(lambda: not cluster.job(job), 90)


@pytest.mark.slow
def test_a_job_over_its_memory_is_killed(cluster: Cluster) -> None:
    job = cluster.submit(f"{sys.executable} -c 'kept = bytearray(10**9); import time; time.sleep(60)'", "--mem=50")
    ended = cluster.wait(job, "FAILED", "OUT_OF_MEMORY", seconds=60)
    assert "memory" in cluster.output(job), ended


@pytest.mark.slow
def test_a_job_over_its_time_ends(cluster: Cluster) -> None:
    job = cluster.submit("sleep 300", "--time=1")
    cluster.wait(job, "TIMEOUT", seconds=110)


@pytest.mark.slow
def test_stop_ends_jobs_and_logins_and_leaves_nothing(own_cluster: StartCluster) -> None:
    cluster = own_cluster(nodes=1)
    job = cluster.submit("trap '' TERM; sleep 600 & sleep 600; sleep 600")
    cluster.wait(job, "RUNNING")
    with subprocess.Popen([*cluster.sshd.ssh, "echo here; sleep 600"], stdout=subprocess.PIPE) as client:
        assert client.stdout
        client.stdout.readline()
        shell = belonging(cluster.folder)
        cluster.stop()
        assert client.wait(10) == 255
    assert len(shell) >= 10
    assert belonging(cluster.folder) == set()
    assert not cluster.folder.exists()


@pytest.mark.slow
def test_what_a_killed_test_run_left_is_taken_down(tmp_path: Path) -> None:
    needs_the_programs()
    text = """
import os, signal
from tests.cluster import Cluster
cluster = Cluster(nodes=1).start()
cluster.wait(cluster.submit("sleep 600"), "RUNNING")
print(cluster.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    run = subprocess.run([sys.executable, "-c", text], check=False, capture_output=True, text=True, env=environment)
    folder = Path(run.stdout.strip())
    assert belonging(folder)
    command = [sys.executable, "-m", "tests.cluster"]
    said = subprocess.run([*command, "status"], check=True, capture_output=True, text=True, env=environment)
    assert f"{folder} (of a test run that has died)" in said.stdout
    subprocess.run([*command, "down", str(tmp_path / "none")], check=True, env=environment)
    assert not belonging(folder)
    assert not folder.exists()


@pytest.mark.slow
def test_people_start_one_use_it_and_take_it_down() -> None:
    needs_the_programs()
    folder = Path(f"/tmp/people-{os.getpid()}")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.cluster", *words]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)

    try:
        said = run("up", "--accounting", "--nodes=1", str(folder))
        assert f"export SLURM_CONF={folder}/slurm.conf" in said.stdout, said
        assert f"key_file: {folder}/ssh/id" in said.stdout
        description = said.stdout.split("As a server:\n")[1].split("\n\n")[0]
        assert Server(**yaml.safe_load(description)).scheduler == "slurm"
        assert "exists already" in run("up", str(folder)).stderr
        assert "slurmdbd runs" in run("status", str(folder)).stdout
        config = ["-F", str(folder / "ssh" / "ssh_config")]
        there = subprocess.run(["ssh", *config, "cluster", "sinfo -h"], check=True, capture_output=True, text=True)
        assert "idle" in there.stdout
    finally:
        run("down", str(folder))
    assert not folder.exists()


def test_a_folder_that_is_no_cluster_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    command = [sys.executable, "-m", "tests.cluster", "down", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    said = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert "is no test cluster" in said.stderr
    assert (tmp_path / "data").exists()


@pytest.mark.parametrize("words", [["--nodes=0", "/tmp/people-none"], ["/tmp/people none"]])
def test_a_cluster_that_cannot_be_is_refused_and_leaves_nothing(tmp_path: Path, words: list[str]) -> None:
    needs_the_programs()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "tests.cluster", "up", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (done.returncode, "Nothing was done" in done.stderr) == (1, True), done.stderr
    assert not Path(words[-1]).exists()


@pytest.mark.slow
def test_a_cluster_that_does_not_come_up_says_why(own_cluster: StartCluster) -> None:
    with pytest.raises(ClusterError, match=r"slurmctld: does not run(.|\n)*select/nonsense"):
        own_cluster(nodes=1, slurm_conf={"SelectType": "select/nonsense"})


@pytest.mark.slow
def test_two_clusters_do_not_see_each_other(cluster: Cluster, own_cluster: StartCluster) -> None:
    other = own_cluster(nodes=1)
    other.submit("sleep 60")
    assert cluster.command("squeue", "--noheader") == ""
    other.stop()
    cluster.wait(cluster.submit("true"), "COMPLETED")


@pytest.mark.slow
def test_accounting_keeps_what_jobs_were(own_cluster: StartCluster) -> None:
    cluster = own_cluster(accounting=True, nodes=1)
    job = cluster.submit("exit 3", "--comment=a 'b' $(c) ü")
    cluster.wait(job, "FAILED")

    def known() -> str:
        options = ["--noheader", "--parsable2", "--allocations", "--format=State,ExitCode,Comment,Account"]
        return cluster.command("sacct", f"--jobs={job}", *options).strip()

    assert wait_until(lambda: known() == "FAILED|3:0|a 'b' $(c) ü|lab", 20), known()
    assert cluster.accounting
    cluster.accounting.slurmdbd.kill()
    with pytest.raises(ClusterError):
        cluster.command("sacct")
    later = cluster.submit("true")
    cluster.wait(later, "COMPLETED")
    cluster.start()
    assert wait_until(lambda: f"{later}|COMPLETED" in cluster.command("sacct", "-nPX", "--format=JobID,State"), 60)


@pytest.mark.slow
def test_submit_limits_hold_for_an_association_and_for_a_qos(own_cluster: StartCluster) -> None:
    cluster = own_cluster(accounting=True, nodes=1)
    cluster.command("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=2")
    jobs = [cluster.submit("sleep 60") for _ in range(2)]
    with pytest.raises(ClusterError, match="AssocMaxSubmitJobLimit"):
        cluster.submit("true")
    cluster.command("scancel", jobs[0])
    cluster.wait(jobs[0], "CANCELLED")
    cluster.submit("true")
    cluster.command("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=-1")
    cluster.command("sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxSubmitJobsPerUser=1")
    with pytest.raises(ClusterError, match="QOSMaxSubmitJobPerUserLimit"):
        cluster.submit("true")
    with pytest.raises(ClusterError, match="Invalid account"):
        cluster.submit("true", "--account=stranger")


@pytest.mark.slow
def test_accounting_tells_the_memory_that_a_job_used(own_cluster: StartCluster) -> None:
    cluster = own_cluster(accounting=True, nodes=1)
    job = cluster.submit(f"{sys.executable} -c 'kept = b\"x\" * (300 << 20); import time; time.sleep(5)'", "--mem=1000")
    cluster.wait(job, "COMPLETED")

    def used() -> float:
        text = cluster.command("sacct", "-nP", f"--jobs={job}.batch", "--units=M", "--format=MaxRSS").strip()
        return float(text.rstrip("M") or 0)

    assert wait_until(lambda: used() > 250, 20), used()
