"""Fixtures with a real Slurm cluster; where a program is missing, their tests are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.daemon import UnavailableError
from tests.sshd import Sshd


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that all tests share: two nodes, no accounting. It is tidied after each test that names it."""
    with ExitStack() as stack:
        yield _started(stack, Cluster)


@pytest.fixture(autouse=True)
def _tidy_cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").tidy()


@pytest.fixture
def own_cluster() -> Iterator[Callable[..., Cluster]]:
    """Start a cluster of the test's own with the arguments of `Cluster`; it ends with the test."""
    with ExitStack() as stack:
        yield lambda **arguments: _started(stack, lambda: Cluster(**arguments))


@pytest.fixture
def own_sshd() -> Iterator[Callable[..., Sshd]]:
    """Start an sshd without a cluster, with the arguments of `Sshd`; it ends with the test."""
    with ExitStack() as stack:
        yield lambda **arguments: _started(stack, lambda: Sshd(**arguments))


def _started(stack: ExitStack, make: Callable[[], Any]) -> Any:
    try:
        return stack.enter_context(make())
    except UnavailableError as error:
        pytest.skip(str(error))
