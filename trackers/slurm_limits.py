"""What Slurm's programs print of partitions, nodes and limits, read into plain data, and what fits into them."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

UNLIMITED = frozenset({"", "UNLIMITED", "INFINITE", "NONE", "NOT_SET", "N/A", "(null)", "Partition_Limit"})
SINFO_FORMAT = "%R|%c|%m|%G|%D"
ASSOCIATION_FIELDS = "Account,Partition,MaxSubmit,GrpSubmit,QOS,DefaultQOS"
QOS_FIELDS = "Name,MaxSubmitPU,GrpSubmit,MaxWall"
MEBIBYTE_GB = 2**20 / 1e9


@dataclass(frozen=True)
class Partition:
    """One line of `scontrol --oneliner show partition`.

    Attributes:
        minutes, memory_mib, cpus: the most that a job may ask for, the latter two of one node; None: no limit.
        groups, accounts, denied: None: all may use it.
    """

    name: str
    default: bool
    state: str
    minutes: int | None
    memory_mib: int | None
    cpus: int | None
    groups: frozenset[str] | None
    accounts: frozenset[str] | None
    denied: frozenset[str]
    root_only: bool

    def refusal(self, groups: Collection[str], accounts: Collection[str]) -> str:
        """Return why an account with these groups and Slurm accounts may not use it; empty where it may.

        Without any Slurm account, which is so where there is no accounting, their names do not count.
        """
        if self.state != "UP":
            return f"it is {self.state}"
        if self.root_only:
            return "it is for root only"
        if self.groups is not None and not self.groups & set(groups):
            return f"it is for the groups {', '.join(sorted(self.groups))}"
        if accounts and self.accounts is not None and not self.accounts & set(accounts):
            return f"it is for the accounts {', '.join(sorted(self.accounts))}"
        if accounts and set(accounts) <= self.denied:
            return f"it is closed to {', '.join(sorted(accounts))}"
        return ""


@dataclass(frozen=True)
class NodeKind:
    """A group of equal nodes in a partition, as sinfo shows it."""

    partition: str
    cpus: int
    memory_mib: int
    gpus: int
    count: int


@dataclass(frozen=True)
class Association:
    """What accounting lets an account do; None: no limit is set."""

    account: str
    partition: str
    submit: int | None
    qos: tuple[str, ...]


@dataclass(frozen=True)
class Qos:
    """A quality of service; None: no limit is set."""

    name: str
    submit: int | None
    minutes: int | None


def parse_config(text: str) -> dict[str, str]:
    """Read `scontrol show config`."""
    return dict(re.findall(r"^(\w+)\s*=[ ]?(.*?)\s*$", text, re.MULTILINE))


def parse_partitions(text: str) -> list[Partition]:
    """Read `scontrol --oneliner show partition`; other lines are passed over."""
    found = []
    for line in text.splitlines():
        words = dict(re.findall(r"(\w+)=(\S*)", line))
        if "PartitionName" not in words:
            continue
        found.append(
            Partition(
                name=words["PartitionName"],
                default=words.get("Default") == "YES",
                state=words.get("State", ""),
                minutes=parse_minutes(words.get("MaxTime", "")),
                memory_mib=_number(words.get("MaxMemPerNode", "")),
                cpus=_number(words.get("MaxCPUsPerNode", "")),
                groups=_names(words.get("AllowGroups", "ALL")),
                accounts=_names(words.get("AllowAccounts", "ALL")),
                denied=_names(words.get("DenyAccounts", "")) or frozenset(),
                root_only=words.get("RootOnly") == "YES",
            )
        )
    return found


def parse_nodes(text: str) -> list[NodeKind]:
    """Read `sinfo -h -e -o SINFO_FORMAT`; counts may end with a `+` where nodes differ."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != SINFO_FORMAT.count("|") + 1:
            continue
        cpus, memory, count = (_number(fields[index]) for index in (1, 2, 4))
        if cpus is not None and memory is not None:
            found.append(NodeKind(fields[0], cpus, memory, _gpus(fields[3]), count or 0))
    return found


def parse_associations(text: str) -> list[Association]:
    """Read `sacctmgr -n -P show assoc format=ASSOCIATION_FIELDS`."""
    found = []
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != ASSOCIATION_FIELDS.count(",") + 1:
            continue
        account, partition, most, group, qos, default = fields
        names = tuple(dict.fromkeys(name for name in (default, *qos.split(",")) if name))
        found.append(Association(account, partition, _least(_number(most), _number(group)), names))
    return found


def parse_qos(text: str) -> dict[str, Qos]:
    """Read `sacctmgr -n -P show qos format=QOS_FIELDS`, by name."""
    found = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) == QOS_FIELDS.count(",") + 1:
            name, most, group, wall = fields
            found[name] = Qos(name, _least(_number(most), _number(group)), parse_minutes(wall))
    return found


def parse_minutes(text: str) -> int | None:
    """Read Slurm's durations, `[DD-]HH:MM:SS`, `DD-HH`, `DD-HH:MM`, `MM:SS` or `MM`; None for no limit."""
    if text in UNLIMITED:
        return None
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in [*parts, *([days] if days else [])]):
        return None
    numbers = [int(part) for part in parts]
    if days:
        hours, minutes = (*numbers, 0)[:2]
        return int(days) * 1440 + hours * 60 + minutes
    return numbers[0] * 60 + numbers[1] if len(numbers) == 3 else numbers[0]


def misfit(
    partition: Partition, nodes: Collection[NodeKind], cpus: int, memory_gb: float, minutes: int, gpus: int
) -> str:
    """Return why a job will never run in a partition; an empty string where it fits, as far as is known."""
    if partition.minutes is not None and minutes > partition.minutes:
        return f"{minutes} min, and {partition.name} allows {partition.minutes}"
    mebibytes = memory_gb / MEBIBYTE_GB
    if partition.memory_mib is not None and mebibytes > partition.memory_mib:
        return f"{memory_gb:g} GB, and {partition.name} allows {gigabytes(partition.memory_mib)} of a node"
    if partition.cpus is not None and cpus > partition.cpus:
        return f"{cpus} cores, and {partition.name} allows {partition.cpus} of a node"
    if nodes and not any(n.cpus >= cpus and n.memory_mib >= mebibytes and n.gpus >= gpus for n in nodes):
        asked = f"{_some(cpus, 'core')}, {memory_gb:g} GB" + (f", {_some(gpus, 'GPU')}" if gpus else "")
        return f"{asked}, and no node of {partition.name} has that ({'; '.join(map(in_words, nodes))})"
    return ""


def in_words(node: NodeKind) -> str:
    """Describe a kind of node."""
    gpus = f", {node.gpus} GPUs" if node.gpus else ""
    return f"{node.count} × {node.cpus} cores, {gigabytes(node.memory_mib)}{gpus}"


def gigabytes(mebibytes: int) -> str:
    """Return an amount of memory, GB of 10^9 bytes."""
    return f"{mebibytes * MEBIBYTE_GB:.0f} GB"


def _some(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _number(text: str) -> int | None:
    found = re.match(r"\d+", text)
    return int(found[0]) if found else None


def _names(text: str) -> frozenset[str] | None:
    return None if text in ("ALL", *UNLIMITED) else frozenset(text.split(","))


def _gpus(gres: str) -> int:
    """Count the GPUs of `gpu:2`, `gpu:a100:4(S:0-1),shard:8` or `(null)`."""
    return sum(int(count) for count in re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)", gres))
