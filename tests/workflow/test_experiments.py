"""docs/experiments.md and docs/plugins.md, run: a sweep that encodes nothing twice, a one-off run, a sampler of one's own."""

import csv
import re
import shutil
from pathlib import Path

import pytest

from tests.workflow.project import REPO, Project

pytestmark = pytest.mark.workflow

SWEEP = """ranks: 2
plugins: [my_samplers]
experiments:
  tiny:
    base: [config/tiny.yaml]
sweep:
  lr:
    experiment: tiny
    set: [args.train_iters=2, "args.sampling_controls=[]"]
    grid:
      deepspeed.optimizer.params.lr: [1e-3, 1e-2]
"""


@pytest.fixture
def sweep(project: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, with a sweep in its workflow config and the plugin of docs/plugins.md beside it."""
    copy = Project(tmp_path / "project")
    shutil.copytree(project.root, copy.root, symlinks=True)
    copy.snakemake()  # the clips lie elsewhere now, which a scan finds out
    (copy.root / "config/config.yaml").write_text(SWEEP)
    example = re.findall(r"```python\n(.*?)```", (REPO / "docs/plugins.md").read_text(), re.DOTALL)[0]
    (copy.root / "my_samplers.py").write_text(example)
    return copy


def ran(project: Project, before: dict[str, int]) -> list[str]:
    """Stages whose receipts or markers are new, sorted, one for each job."""
    new = [name for name, stamp in project.stamps().items() if before.get(name) != stamp]
    return sorted("report" if name.startswith(".published") else name.split("-")[0] for name in new)


def test_a_sweep_encodes_nothing_twice_and_compares_its_members(sweep: Project) -> None:
    before = sweep.stamps()
    sweep.snakemake("sweep_lr")
    assert ran(sweep, before) == sorted(["train", "export", "sample", "evaluate", "report"] * 2)
    rows = list(csv.DictReader((sweep.root / "results/lr/sweep.csv").open()))
    assert [row["deepspeed.optimizer.params.lr"] for row in rows] == ["0.001", "0.01"]
    assert len({row["train.loss_last"] for row in rows}) == 2
    page = (sweep.root / "results/lr/report.html").read_text()
    assert "lr-lr_0.001" in page
    assert "<svg" in page
    assert page.count("data:video/mp4") == 2 * 3
    assert (sweep.root / "results/lr/lr-lr_0.01/report.html").exists()

    stamp = next((sweep.root / "results/lr").glob(".compared-*")).stat().st_mtime_ns
    again = sweep.snakemake()
    assert "Nothing to be done" in again.stderr
    assert next((sweep.root / "results/lr").glob(".compared-*")).stat().st_mtime_ns == stamp

    before = sweep.stamps()  # a one-off run may start from a member, and a class of one's own may sample
    words = "args.load.experiment=lr-lr_0.01 args.train_iters=1 model.sampler_config.target=my_samplers.EtaSampler"
    sweep.snakemake("--config", "run=once", "base=config/tiny.yaml", f"set={words} model.sampler_config.params.eta=0.5")
    assert ran(sweep, before) == ["evaluate", "export", "report", "sample", "train"]
    assert "my_samplers.EtaSampler" in (sweep.root / "results/once/config.yaml").read_text()

    before = sweep.stamps()  # its source is part of what the samples are
    plugin = sweep.root / "my_samplers.py"
    plugin.write_text(plugin.read_text().replace("eta: float = 1.0", "eta: float = 0.9"))
    sweep.snakemake("--config", "run=once", "base=config/tiny.yaml", f"set={words} model.sampler_config.params.eta=0.5")
    assert ran(sweep, before) == ["evaluate", "report", "sample"]
