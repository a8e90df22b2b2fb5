"""Whether a job that ended without success is tried again, and with what: by cause, within the job's own limits."""

from __future__ import annotations

from dataclasses import replace

from trackers.graph import Resources
from trackers.states import JobState

LOST_NODES = 5  # attempts at a job whose nodes fail or are taken from it; those that ended otherwise do not count
GROWTH = 2


def next_resources(state: JobState, lost: int, resources: Resources) -> Resources | None:
    """Return what the next attempt asks for, None where there is to be none.

    Out of memory is answered with more memory, a time limit with more time, a lost node or a preemption with the same
    again; an error of the program, a cancel and a job of which nothing is known, never.

    Args:
        state: how the attempt ended.
        lost: how many attempts at the job, with this one, ended since their nodes failed or were taken from them.
        resources: what it had, with the limits that the job states.
    """
    match state:
        case JobState.OUT_OF_MEMORY if resources.memory_gb < resources.maximum_memory_gb:
            return replace(resources, memory_gb=min(resources.memory_gb * GROWTH, resources.maximum_memory_gb))
        case JobState.TIMEOUT if resources.minutes < resources.maximum_minutes:
            return replace(resources, minutes=min(resources.minutes * GROWTH, resources.maximum_minutes))
        case JobState.NODE_FAIL | JobState.PREEMPTED if lost < LOST_NODES:
            return resources
        case _:
            return None


def limit(state: JobState, lost: int, resources: Resources) -> str:
    """Say, for people, that a job of which another attempt might have helped is given none; empty for other ends."""
    match state:
        case JobState.OUT_OF_MEMORY:
            return f"it may not ask for more than the {resources.memory_gb:g} GB that it had"
        case JobState.TIMEOUT:
            return f"it may not ask for more than the {resources.minutes} min that it had"
        case JobState.NODE_FAIL | JobState.PREEMPTED if lost >= LOST_NODES:
            return f"it is not tried again after {lost} attempts that lost their nodes"
        case _:
            return ""
