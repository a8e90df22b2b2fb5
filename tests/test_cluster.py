"""The test cluster does what tests of the cluster rely on."""

from __future__ import annotations

import subprocess

from tests.cluster import Cluster


def login(cluster: Cluster, command: str) -> str:
    return subprocess.run([*cluster.sshd.ssh, command], check=True, capture_output=True, text=True).stdout


def test_a_job_runs_and_its_output_is_read(cluster: Cluster) -> None:
    job = cluster.submit("echo $SLURM_JOB_ID on $SLURMD_NODENAME")
    cluster.wait(job, "COMPLETED")
    assert cluster.output(job) == f"{job} on node1\n"


def test_a_login_finds_the_cluster(cluster: Cluster) -> None:
    job = login(cluster, "sbatch --parsable --output=/dev/null --wrap true").strip()
    cluster.wait(job, "COMPLETED")


def test_jobs_survive_a_controller_that_is_killed(cluster: Cluster) -> None:
    first = cluster.submit("sleep 3")
    second = cluster.submit("true", f"--dependency=afterok:{first}")
    cluster.wait(first, "RUNNING")
    cluster.slurmctld.stop()
    cluster.slurmctld.start()
    cluster.slurmctld.kill()
    cluster.slurmctld.start()
    cluster.wait(second, "COMPLETED")
