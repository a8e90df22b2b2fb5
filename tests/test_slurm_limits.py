"""What Slurm 22.05 prints of partitions, nodes and limits, and what fits into them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trackers.check_slurm import Rights, accounting, privacy, submit_limits
from trackers.slurm_limits import (
    Association,
    NodeKind,
    Qos,
    misfit,
    parse_associations,
    parse_config,
    parse_minutes,
    parse_nodes,
    parse_partitions,
    parse_qos,
)

DATA = Path(__file__).parent / "data" / "slurm"
PARTITIONS = {each.name: each for each in parse_partitions((DATA / "partitions-22.05.txt").read_text())}
NODES = parse_nodes((DATA / "sinfo-22.05.txt").read_text())
CONFIG = parse_config((DATA / "config-22.05.txt").read_text())


def test_partitions_are_read_with_their_limits() -> None:
    assert list(PARTITIONS) == ["main", "short", "closed", "off"]
    assert (PARTITIONS["main"].default, PARTITIONS["main"].minutes, PARTITIONS["main"].cpus) == (True, None, None)
    short = PARTITIONS["short"]
    assert (short.minutes, short.memory_mib, short.cpus, short.accounts) == (60, 8000, 8, frozenset({"lab"}))


def test_who_may_not_use_a_partition_is_told_why() -> None:
    assert PARTITIONS["main"].refusal({"users"}, {"lab"}) == ""
    assert PARTITIONS["off"].refusal({"users"}, set()) == "it is DOWN"
    assert "wheel" in PARTITIONS["closed"].refusal({"users"}, {"lab"})
    assert PARTITIONS["closed"].refusal({"users", "wheel"}, {"lab"}) == ""
    assert "lab" in PARTITIONS["short"].refusal({"users"}, {"other"})
    assert PARTITIONS["short"].refusal({"users"}, set()) == ""  # without accounting there are no accounts


def test_nodes_are_read_with_their_graphics_cards() -> None:
    assert NODES[0] == NodeKind("main", 64, 200000, 2, 2)
    (other,) = parse_nodes("gpu|128+|515000+|gpu:a100:4(S:0-1),shard:16|3\n")
    assert (other.cpus, other.memory_mib, other.gpus) == (128, 515000, 4)
    assert parse_nodes("bash: sinfo: command not found\n") == []


@pytest.mark.parametrize(
    ("partition", "asked", "words"),
    [
        ("main", (30, 180.0, 90, 0), ""),
        ("main", (65, 10.0, 90, 0), "no node of main has that"),
        ("main", (1, 250.0, 90, 0), "no node of main has that"),
        ("main", (1, 10.0, 90, 3), "no node of main has that"),
        ("short", (1, 8.0, 90, 0), "90 min, and short allows 60"),
        ("short", (1, 8.5, 60, 0), "8.5 GB, and short allows 8 GB"),
        ("short", (9, 8.0, 60, 0), "9 cores, and short allows 8"),
    ],
)
def test_what_does_not_fit_is_said(partition: str, asked: tuple[int, float, int, int], words: str) -> None:
    nodes = [node for node in NODES if node.partition == partition]
    said = misfit(PARTITIONS[partition], nodes, *asked)
    assert words in said
    assert bool(said) == bool(words)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("UNLIMITED", None),
        ("INFINITE", None),
        ("", None),
        ("01:00:00", 60),
        ("7-00:00:00", 10080),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("90", 90),
        ("90:30", 90),
        ("soon", None),
    ],
)
def test_durations_are_read(text: str, minutes: int | None) -> None:
    assert parse_minutes(text) == minutes


def test_limits_of_accounts_and_qos_are_read() -> None:
    assert parse_associations("lab||10||normal|\nlab|gpu||5|normal,long|long\n") == [
        Association("lab", "", 10, ("normal",)),
        Association("lab", "gpu", 5, ("long", "normal")),
    ]
    assert parse_qos("normal|20||1-00:00:00\nlong||40|\n") == {
        "normal": Qos("normal", 20, 1440),
        "long": Qos("long", 40, None),
    }


def test_submit_limits_are_said_as_far_as_they_are_known() -> None:
    rights = Rights((Association("lab", "", 10, ("normal",)),), (Qos("normal", 20, None),))
    said = submit_limits(rights, CONFIG)
    assert (said.result, said.words) == ("ok", "10 for account lab, 20 for QOS normal; more wait their turn")
    assert submit_limits(Rights((Association("lab", "", 0, ()),)), CONFIG).result == "failure"
    assert submit_limits(Rights(problem="Connection refused"), CONFIG).result == "warning"
    assert "enforces none" in submit_limits(rights, {"AccountingStorageEnforce": "none"}).words


def test_the_configuration_says_what_can_be_seen() -> None:
    assert CONFIG["ClusterName"] == "test"
    assert privacy(CONFIG).result == "warning"  # PrivateData = jobs
    assert privacy({"PrivateData": "none"}).result == "ok"
    assert accounting({"AccountingStorageType": "accounting_storage/none"}).result == "warning"
