"""Whether a site's Slurm can run our jobs: programs, partition, what jobs ask for, limits, what it lets us see."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from trackers.check import Finding, Wish
from trackers.graph import Resources
from trackers.processes import this_account
from trackers.site import Site, SlurmOptions
from trackers.slurm_handover import resource_words
from trackers.slurm_limits import (
    ASSOCIATION_FIELDS,
    QOS_FIELDS,
    SINFO_FORMAT,
    Association,
    NodeKind,
    Partition,
    Qos,
    gigabytes,
    in_words,
    misfit,
    parse_associations,
    parse_config,
    parse_nodes,
    parse_partitions,
    parse_qos,
)
from trackers.slurm_queue import Answer, ask_slurm
from trackers.slurm_text import Refusal, refusal_of

NEEDED = ("sbatch", "squeue", "scancel", "scontrol")
QUESTION_SECONDS = 20.0
STEPS = ("partition", "jobs", "submit limits", "accounting", "other accounts' jobs")
MOST_TESTED = 20  # of the different things that jobs ask for
LESS = (
    "Lower it in the description (`resources: PIPELINE: {memory_gb: …}`, and so minutes, cpus and gpus), or choose "
    "another partition or QOS."
)


@dataclass(frozen=True)
class Rights:
    """What this account may do, as far as accounting says; empty without accounting."""

    associations: tuple[Association, ...] = ()  # with the Slurm account that the description names, if it does
    qos: tuple[Qos, ...] = ()
    problem: str = ""
    accounts_of_all: frozenset[str] = frozenset()  # also those that the description does not name

    @property
    def accounts(self) -> set[str]:
        """The Slurm accounts that jobs may be charged to."""
        return {association.account for association in self.associations}

    @property
    def names_of_qos(self) -> set[str]:
        """The QOS that jobs may have."""
        return {name for association in self.associations for name in association.qos}


def slurm(site: Site, wishes: list[Wish]) -> Iterator[Finding]:
    """Look at everything that our jobs meet in Slurm."""
    there = programs()
    yield there
    config = _ask("scontrol", "show", "config") if there.result != "failure" else None
    if config is None or not config.ok:
        if config is not None:
            remedy = "Wait until the controller answers (`scontrol ping`), or tell the administrator."
            yield Finding("Slurm controller", "failure", config.words, remedy)
        for step in STEPS:
            yield Finding(step, "skipped", "not looked at, because Slurm does not answer")
        return
    facts = parse_config(config.output)
    yield Finding("Slurm controller", "ok", f"cluster {facts.get('ClusterName', '?')} answers")
    rights = _rights(site.slurm, facts)
    found, chosen = partition(site.slurm, rights)
    yield found
    if chosen is None:
        yield Finding("jobs", "skipped", "not looked at, because no partition can be used")
    else:
        nodes = parse_nodes(_ask("sinfo", "-h", "-e", "-o", SINFO_FORMAT).output)
        yield jobs(site.slurm, chosen, [node for node in nodes if node.partition == chosen.name], rights, wishes)
    yield submit_limits(rights, facts)
    yield accounting(facts)
    yield privacy(facts)


def programs() -> Finding:
    """Look for Slurm's programs."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return Finding(
            *("Slurm", "failure", f"not found: {', '.join(missing)}"),
            "Let logins without a terminal find them on their PATH (~/.bashrc, before it leaves for such logins), load "
            "the module in `environments: core: activate`, or set `scheduler: local`.",
        )
    answer = _ask("sbatch", "--version")
    if not answer.ok:
        return Finding("Slurm", "failure", f"sbatch does not start: {answer.words}", "Tell the administrator.")
    return Finding("Slurm", "ok", f"{answer.output.strip()} ({shutil.which('sbatch')})")


def partition(options: SlurmOptions, rights: Rights) -> tuple[Finding, Partition | None]:
    """Find the partition that jobs go to, and say which others could be used; return it, or None."""
    answer = _ask("scontrol", "--oneliner", "show", "partition")
    partitions, groups = parse_partitions(answer.output), _groups()
    if not answer.ok or not partitions:
        words = answer.words if not answer.ok else "Slurm shows no partition to this account"
        return Finding("partition", "failure", words, "Ask the administrator which partition to use."), None
    accounts = {options.account} if options.account else rights.accounts
    refused = {each.name: each.refusal(groups, accounts) for each in partitions}
    others = [name for name, reason in refused.items() if not reason]
    remedy = f"Set `slurm: partition` in the description; this account can use: {', '.join(others) or 'none'}."
    wanted = options.partition.split(",") if options.partition else [each.name for each in partitions if each.default]
    found = [each for each in partitions if each.name in wanted]
    if not found:
        words = f"there is no partition {options.partition}" if options.partition else "the site has no default one"
        return Finding("partition", "failure", words, remedy), None
    chosen = next((each for each in found if not refused[each.name]), found[0])
    if refused[chosen.name]:
        return Finding("partition", "failure", f"{chosen.name}: {refused[chosen.name]}", remedy), None
    more = [name for name in others if name != chosen.name]
    words = f"{_limits(chosen)}; {'others that can be used: ' + ', '.join(more) if more else 'no other can be used'}"
    return Finding("partition", "ok", words), chosen


def jobs(
    options: SlurmOptions, chosen: Partition, nodes: list[NodeKind], rights: Rights, wishes: list[Wish]
) -> Finding:
    """Compare what jobs ask for with the partition, then ask Slurm whether it would take them; none is submitted."""
    where = "; ".join(map(in_words, nodes)) or "nodes unknown"
    refused = {wish.label: _never(options, chosen, nodes, rights, wish) for wish in wishes}
    if problems := [f"{label} asks for {problem}" for label, problem in refused.items() if problem]:
        return Finding("jobs", "failure", "; ".join(problems), LESS)
    answers = {asked: _ask("sbatch", "--test-only", *asked, "--wrap=true") for asked in _different(options, wishes)}
    for asked, answer in answers.items():
        if answer.code is None:
            said = f"Slurm did not say whether it would take them: {answer.words}"
            return Finding("jobs", "warning", said, "Slurm is busy; look again later.")
        if not answer.ok:
            return _refused(asked, answer, rights)
    if large := [wish.label for wish in wishes if _retry_misfit(chosen, nodes, rights, wish)]:
        words = f"all can start ({where}), but retries of {', '.join(large)} cannot go as far as they may"
        return Finding("jobs", "warning", words, "Lower maximum_memory_gb and maximum_minutes, or leave it so.")
    return Finding("jobs", "ok", f"all that {len(wishes)} kinds of jobs ask for can be had: {where}")


def submit_limits(rights: Rights, facts: dict[str, str]) -> Finding:
    """Say how many jobs this account may have submitted at once."""
    step, waits = "submit limits", "more wait their turn"
    if rights.problem:
        return Finding(step, "warning", f"not known: {rights.problem}", "Nothing need be done; limits are learnt.")
    enforced = {"limits", "qos", "safe", "all"} & set(facts.get("AccountingStorageEnforce", "").lower().split(","))
    found = {f"account {each.account}": each.submit for each in rights.associations}
    found |= {f"QOS {each.name}": each.submit for each in rights.qos}
    known = {name: limit for name, limit in found.items() if limit is not None}
    if not enforced or not known:
        return Finding(step, "ok", "none is set" if enforced else "the site enforces none")
    words = ", ".join(f"{limit} for {name}" for name, limit in known.items())
    if min(known.values()) == 0:
        return Finding(step, "failure", words, "No job may be submitted: ask the administrator.")
    return Finding(step, "ok", f"{words}; {waits}")


def accounting(facts: dict[str, str]) -> Finding:
    """Say whether Slurm remembers jobs that have ended."""
    step = "accounting"
    if facts.get("AccountingStorageType", "").endswith(("none", "(null)")):
        words = "no: CPU and memory used are not known to Slurm, and jobs that nobody saw ending count as lost"
        return Finding(step, "warning", words, "Nothing need be done: our job scripts keep records of their own.")
    answer = _ask("sacct", "-n", "-P", "-X", "-o", "JobID")
    if not answer.ok:
        remedy = "Jobs keep their last state until it answers. If this stays so, tell the administrator."
        return Finding(step, "warning", f"it does not answer: {answer.words}", remedy)
    return Finding(step, "ok", "yes, sacct answers")


def privacy(facts: dict[str, str]) -> Finding:
    """Say whether jobs of the lab's other accounts can be seen."""
    step = "other accounts' jobs"
    if "jobs" in facts.get("PrivateData", "").lower().split(","):
        return Finding(
            *(step, "warning", "invisible (PrivateData=jobs): whether another account's job runs cannot be known"),
            "Let one account process a project, or ask the administrator to make you coordinator of the lab's account.",
        )
    return Finding(step, "ok", "visible")


def _limits(chosen: Partition) -> str:
    minutes = "no time limit" if chosen.minutes is None else f"at most {chosen.minutes} min"
    memory = "" if chosen.memory_mib is None else f", {gigabytes(chosen.memory_mib)} of a node"
    cpus = "" if chosen.cpus is None else f", {chosen.cpus} cores of a node"
    return f"{chosen.name}{' (the default)' if chosen.default else ''}: {minutes}{memory}{cpus}"


def _refused(asked: tuple[str, ...], answer: Answer, rights: Rights) -> Finding:
    """Say what to do about Slurm's refusal of what a job asks for."""
    said, words = f"sbatch {' '.join(asked)}: {answer.words}", answer.words.lower()
    if refusal_of(answer.errors, timed_out=False) is Refusal.LIMIT:
        remedy = "Jobs wait their turn; to know whether Slurm would take these, look again when others have ended."
        return Finding("jobs", "warning", f"as many are submitted as may be: {said}", remedy)
    if "invalid account" in words:
        remedy = f"Correct `slurm: account` in the description{_choice(rights.accounts_of_all)}."
    elif "invalid qos" in words:
        remedy = f"Correct `slurm: qos` in the description{_choice(rights.names_of_qos)}."
    elif "policy" in words or "node configuration" in words or "node count" in words:
        remedy = LESS
    else:
        remedy = "Correct `slurm` in the description: its `partition`, or one of its `options`."
    return Finding("jobs", "failure", said, remedy)


def _choice(names: Collection[str]) -> str:
    return f"; this account can use: {', '.join(sorted(names))}" if names else ""


def _never(options: SlurmOptions, chosen: Partition, nodes: list[NodeKind], rights: Rights, wish: Wish) -> str:
    for qos in rights.qos:
        if qos.minutes is not None and wish.minutes > qos.minutes and qos.name == (options.qos or qos.name):
            return f"{wish.minutes} min, and QOS {qos.name} allows {qos.minutes}"
    return misfit(chosen, nodes, wish.cpus, wish.memory_gb, wish.minutes, wish.gpus)


def _retry_misfit(chosen: Partition, nodes: list[NodeKind], rights: Rights, wish: Wish) -> str:
    minutes, memory = max(wish.minutes, wish.maximum_minutes), max(wish.memory_gb, wish.maximum_memory_gb)
    longest = [qos.minutes for qos in rights.qos if qos.minutes is not None]
    return misfit(chosen, nodes, wish.cpus, memory, minutes, wish.gpus) or (
        "time" if longest and minutes > min(longest) else ""
    )


def _different(options: SlurmOptions, wishes: list[Wish]) -> list[tuple[str, ...]]:
    """Return what sbatch is told for each different set of resources."""
    asked = dict.fromkeys(Resources(w.cpus, w.memory_gb, w.minutes, w.gpus) for w in wishes)
    return [(*resource_words(resources), *options.words()) for resources in list(asked)[:MOST_TESTED]]


def _rights(options: SlurmOptions, facts: dict[str, str]) -> Rights:
    """Ask accounting what this account may do."""
    if facts.get("AccountingStorageType", "").endswith(("none", "(null)")):
        return Rights()
    user = f"user={this_account()}"
    answer = _ask("sacctmgr", "-n", "-P", "show", "assoc", user, f"format={ASSOCIATION_FIELDS}")
    limits = _ask("sacctmgr", "-n", "-P", "show", "qos", f"format={QOS_FIELDS}")
    if not answer.ok or not limits.ok:
        return Rights(problem=(answer if not answer.ok else limits).words)
    everything = parse_associations(answer.output)
    associations = [each for each in everything if not options.account or each.account == options.account]
    used = {options.qos} if options.qos else {name for each in associations for name in each.qos[:1]}
    known = parse_qos(limits.output)
    qos = tuple(known[name] for name in sorted(used) if name in known)
    return Rights(tuple(associations), qos, accounts_of_all=frozenset(each.account for each in everything))


def _groups() -> set[str]:
    import grp

    found = set()
    for number in {os.getegid(), *os.getgroups()}:
        try:
            found.add(grp.getgrgid(number).gr_name)
        except KeyError:  # a group without a name cannot be named by a partition
            continue
    return found


def _ask(*words: str) -> Answer:
    return ask_slurm(*words, seconds=QUESTION_SECONDS)
