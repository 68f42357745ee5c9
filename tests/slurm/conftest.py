"""One Slurm for all tests of a session. Where it cannot start, they are skipped; in CI (CI=true) they fail."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, NoCapabilityError, NoSlurmError, missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[Cluster]:
    try:
        if (reason := missing()) is not None:
            raise reason
        started = Cluster()
    except NoSlurmError as reason:
        # No package and no change to the code gives a container a capability that its host denies.
        if os.environ.get("CI") == "true" and not isinstance(reason, NoCapabilityError):
            pytest.fail(f"Slurm did not start: {reason}", pytrace=False)
        pytest.skip(f"no Slurm here: {reason}")
    yield started
    started.stop()


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """The session's Slurm with an empty queue; what a test leaves in it is cancelled."""
    yield running_cluster
    running_cluster.cancel_all()
