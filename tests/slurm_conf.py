"""The configuration of a test cluster: quick scheduling, loopback only, nodes that do not exist."""

from __future__ import annotations

from pathlib import Path

from tests.daemon import free_port

DEFAULTS: dict[str, object] = {
    "ClusterName": "test",
    "SlurmctldHost": "localhost(127.0.0.1)",
    "SlurmUser": "root",
    "SlurmdUser": "root",
    "AuthType": "auth/munge",
    "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",  # loopback only
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core_Memory",
    "DefMemPerCPU": 100,  # else a job that asks for none gets all
    "SlurmdParameters": "config_overrides",
    "MpiDefault": "none",
    "MailProg": "/bin/true",
    "ReturnToService": 1,  # a node that was silent comes back by itself, one that was set down does not
    "EpilogMsgTime": 0,
    # Memory limits without cgroups.
    "JobAcctGatherType": "jobacct_gather/linux",
    "JobAcctGatherFrequency": "task=2",
    "JobAcctGatherParams": "OverMemoryKill",
    "SchedulerParameters": "sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=1,"
    "default_queue_depth=2000,partition_job_depth=2000",
}


def write_slurm_conf(
    folder: Path, munge_socket: Path, nodes: list[str], gpus: int, own: dict[str, object], lines: tuple[str, ...]
) -> None:
    """Write slurm.conf, and gres.conf where there are GPUs; `own` as in `Cluster`."""
    (folder / "state").mkdir(exist_ok=True)
    settings = {
        **DEFAULTS,
        "AuthInfo": f"socket={munge_socket}",
        "SlurmctldPort": free_port(),
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": f"{folder}/spool-%n",
        "SlurmctldPidFile": f"{folder}/slurmctld.own",
        "SlurmdPidFile": f"{folder}/slurmd-%n.own",
        **own,
    }
    if "SchedulerParameters" in own:
        settings["SchedulerParameters"] = f"{DEFAULTS['SchedulerParameters']},{own['SchedulerParameters']}"
    text = [f"{key}={value}" for key, value in settings.items()]
    if gpus:
        text.append("GresTypes=gpu")
        for number in range(gpus):
            (folder / f"gpu{number}").touch()
        (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{gpus - 1}]\n")
    for node in nodes:
        place = f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={free_port()}"
        text.append(f"{place} CPUs=64 RealMemory=200000" + (f" Gres=gpu:{gpus}" if gpus else ""))
    text += ["PartitionName=main Nodes=ALL Default=YES State=UP", *lines]
    (folder / "slurm.conf").write_text("\n".join([*text, ""]))
