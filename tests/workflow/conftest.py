"""One finished project for the modules that edit it and put everything back."""

import pytest

from tests.workflow.project import Project, lay_out


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project after one complete run."""
    made = lay_out(tmp_path_factory.mktemp("tiny"))
    made.snakemake()
    return made
