"""The whole pipeline with classes of one's own in every role at once: each is made, with the params of the config."""

from pathlib import Path

import pytest
import yaml

from cogtune.config.registry import NOT_PLUGGED
from tests.plugged import MARK, PACKAGE, all_roles, plug, source, tiny
from tests.workflow.project import lay_out

pytestmark = pytest.mark.workflow


def test_every_role_is_built_from_what_the_config_names(tmp_path: Path) -> None:
    project = lay_out(tmp_path)
    (project.root / f"{PACKAGE}.py").write_text(source())
    tree, plugged = tiny(), all_roles() - set(NOT_PLUGGED)
    for role in sorted(plugged):
        plug(tree, role)
    tree["args"] |= {"train_iters": 2, "valid_data": None, "sampling_controls": []}
    project.config.write_text(yaml.safe_dump(tree, sort_keys=False))
    settings = f"ranks: 2\nplugins: [{PACKAGE}]\nexperiments:\n  tiny:\n    base: [config/tiny.yaml]\n"
    (project.root / "config/config.yaml").write_text(settings)

    project.snakemake()

    made = set((project.root / "made.txt").read_text().splitlines())
    assert made == {f"{role}: {MARK}" for role in plugged}
    assert (project.root / "results/tiny/report.html").exists()
