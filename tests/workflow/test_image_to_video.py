"""Image-to-video through the whole workflow: 1.0 with learned positions, then 1.5 with temporal patches and ofs."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

from cogtune.__main__ import main
from tests.workflow.project import Project, lay_out
from tests.workflow.test_invalidation import made_since

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project with the first image-to-video config in place of the text-to-video one."""
    made = lay_out(tmp_path_factory.mktemp("i2v"))
    for name in ("tiny_i2v", "tiny15_i2v"):
        shutil.copy2(Path(__file__).parent / f"{name}.yaml", made.root / "config")
    made.edit("config/tiny.yaml", "config/tiny_i2v.yaml", made.root / "config/config.yaml")
    made.snakemake()
    return made


def published(project: Project) -> tuple[dict[str, Any], str]:
    results = project.root / "results/tiny"
    return json.loads((results / "metrics.json").read_text()), (results / "report.html").read_text()


def test_learned_positions(project: Project) -> None:
    metrics, html = published(project)
    assert metrics["samples.count"] == 2
    assert html.count("data:image/png;base64,") == 2
    stages = {receipt["stage"]: receipt["made"] for receipt in project.receipts().values()}
    assert stages["images"] == stages["latents"] == 3
    record = json.loads(next((project.root / "store/train").glob("*/final/summary.json")).read_text())
    assert np.isfinite(record["loss_last"])


def test_own_prompts(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An image for each line, or one for all prompts; wrong lines of all kinds are listed at once."""
    monkeypatch.chdir(project.root)
    y, x = np.mgrid[:40, :50]
    for name, image in (("a", [x * 5, y * 6, x + y]), ("b", [y * 6, x + y, x * 5])):
        iio.imwrite(f"{name}.png", np.stack(image, axis=2).astype(np.uint8))
    Path("prompts.txt").write_text("sea@@a.png\nsea@@b.png\n")
    sample = ["sample", "tiny", "--prompts", "prompts.txt"]
    assert main([*sample, "--strength", "0", "1"]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page.read_text().count("data:image/png;base64,") == 2
    listed = json.loads((page.parent / "prompts.json").read_text())["videos"]
    assert [Path(one["image"]).name for one in listed] == ["a.png", "a.png", "b.png", "b.png"]
    assert len({(page.parent / one["file"]).read_bytes() for one in listed}) == 4

    assert main(["sample", "tiny", "--prompt", "sea", "--image", "b.png"]) == 0
    assert "1 video (1 prompt x 1 strength x 1 seed), 1 of them in the store" in capsys.readouterr().err

    Path("prompts.txt").write_text("sea@@none.png\nsea\na prompt of more than eight tokens is far too long@@a.png\n")
    assert main(sample) == 1
    message = capsys.readouterr().err
    for line, why in (
        (1, "no such image: 'none.png'"),
        (2, "expected caption@@image"),
        (3, "the text encoder takes 8"),
    ):
        assert re.search(rf"prompts.txt:{line}: .*{re.escape(why)}", message)


@pytest.mark.slow
def test_temporal_patches_and_ofs_then_an_edit_of_the_noise(project: Project) -> None:
    """9 frames are 3 latents: padded in front for patches of 2. More noised first frames encode no clip again."""
    project.edit("config/tiny_i2v.yaml", "config/tiny15_i2v.yaml", project.root / "config/config.yaml")
    project.snakemake()
    assert published(project)[0]["samples.count"] == 2
    before = project.stamps()
    project.edit("train_iters: 4", "train_iters: 4\n  image_noise_draws: 2", project.root / "config/tiny_i2v.yaml")
    project.snakemake()
    assert made_since(project, before) == {"images": 3, "train": 1, "export": 1, "sample": 4, "evaluate": 3}


@pytest.mark.slow
def test_own_images(project: Project) -> None:
    """Beside the prompt file; an image outside of it ends the run before any job, with exit code 2."""
    prompts = project.root / "config/prompts"
    prompts.mkdir()
    y, x = np.mgrid[:40, :50]
    iio.imwrite(prompts / "a.png", np.stack([x * 5, y * 6, x + y], axis=2).astype(np.uint8))
    (prompts / "prompts.txt").write_text("other words@@a.png\n")
    config = project.root / "config/tiny_i2v.yaml"
    project.edit("sampling_controls: [base]", "input_type: txt\n  input_file: config/prompts/prompts.txt", config)
    project.snakemake()
    assert published(project)[1].count("data:image/png;base64,") == 1
    (prompts / "prompts.txt").write_text("other words@@../../../a.png\n")
    done = project.snakemake(check=False)
    assert done.returncode != 0
    assert "prompts.txt:1: '../../../a.png' is outside of" in done.stderr
