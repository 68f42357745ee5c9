"""One finished project for the modules that edit it and put everything back, and a copy for those that need it as it was."""

import shutil

import pytest

from tests.workflow.project import Project, lay_out


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project after one complete run. Its store keeps what the tests before left there."""
    made = lay_out(tmp_path_factory.mktemp("tiny"))
    made.snakemake()
    shutil.copytree(made.root, made.root.with_name(f"{made.root.name}-untouched"), symlinks=True)
    return made


@pytest.fixture(scope="session")
def untouched(project: Project) -> Project:
    """The project as the complete run left it. Copy it; do not change it."""
    return Project(project.root.with_name(f"{project.root.name}-untouched"))
