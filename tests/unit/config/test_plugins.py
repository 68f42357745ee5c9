"""Classes of a user's own: only from listed packages, params checked, found by the rules of docs/plugins.md."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cogtune
from cogtune.config import plugins
from cogtune.config.errors import ConfigError
from cogtune.sampling.generate import samplers
from cogtune.work.load import load_config

ROOT = Path(__file__).parents[3]
BASE = [ROOT / "config/cogvideox_2b.yaml", ROOT / "config/sft.yaml"]
EXAMPLE = re.findall(r"```python\n(.*?)```", (ROOT / "docs/plugins.md").read_text(), re.DOTALL)[0]
MORE = """
import subprocess
from subprocess import Popen

from cogtune import build


class Plain:
    def __init__(self, num_steps: int, guider_config: dict | None = None, strength: float = 1.0, anything=None):
        self.num_steps, self.strength, self.anything = num_steps, strength, anything
        self.guider = build(guider_config) if guider_config else None

    def __call__(self, denoise, x_init, cond, uncond=None, *, noise=None, on_step=None):
        return x_init


class Bare:
    def __init__(self, num_steps: int):
        self.num_steps = num_steps

    def __call__(self, denoise, x_init, cond, uncond=None, *, noise=None, on_step=None):
        return x_init


class NoSampler:
    def __init__(self):
        pass
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A listed package, of another name in each test since Python keeps what it imported."""
    name = f"plugged_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(EXAMPLE + MORE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_LISTED", {})
    plugins.allow_plugins([name], tmp_path)
    return name


def load(package: Any, target: Any, *overrides: Any):
    words = [f"model.sampler_config.target={package}.{target}", *overrides]
    return load_config(BASE, words, check_files=False).values["model"]["sampler_config"]


def test_params_of_a_dataclass_and_of_a_plain_signature(package: str):
    node = load(package, "EtaSampler", "model.sampler_config.params.eta=0.5")
    assert node["params"]["eta"] == 0.5
    assert node["params"]["guider_config"]["target"] == "DynamicCFG"  # canonical, as below cogtune's own
    assert cogtune.build(node).eta == 0.5


def test_a_plain_class_gets_its_params_by_keyword(package: str, tmp_path: Path):
    file = tmp_path / "sampler.yaml"
    file.write_text(
        f"""model:
  sampler_config:
    target: {package}.Plain
    params:
      num_steps: 5
      anything: [1, {{a: b}}]
      guider_config: {{target: sgm.modules.diffusionmodules.guiders.VanillaCFG, params: {{scale: 3}}}}
"""
    )
    base = [ROOT / "config/cogvideox_2b.yaml", file, ROOT / "config/sft.yaml"]
    with pytest.raises(ConfigError, match=r"discretization_config: unknown key"):  # left over from the file below
        load_config(base, check_files=False)
    made = cogtune.build(
        {
            "target": f"{package}.Plain",
            "params": {
                "num_steps": 5,
                "anything": [1, {"a": "b"}],
                "guider_config": {"target": "VanillaCFG", "params": {"scale": 3}},
            },
        }
    )
    assert (made.num_steps, made.strength, made.anything, made.guider.params.scale) == (5, 1.0, [1, {"a": "b"}], 3)


def test_a_sampler_without_a_guider_samples_unguided_too(package: str):
    node = {"target": f"{package}.Bare", "params": {"num_steps": 5}}
    found = samplers(node, steps=3)
    assert (found[True].num_steps, found[False].num_steps) == (3, 3)


@pytest.mark.parametrize(
    ("target", "overrides", "message"),
    [
        ("EtaSampler", ["model.sampler_config.params.etta=1"], "unknown key; did you mean 'eta'"),
        ("EtaSampler", ["model.sampler_config.params.eta=much"], "expected a number; found 'much'"),
        ("EtaSampler", ["model.sampler_config.params.num_steps=0"], "expected 1 to 10000, because"),
        ("EtaSampler", ["model.sampler_config.params.guider_config.target=VanilaCFG"], "did you mean 'VanillaCFG'"),
        ("NoSampler", [], "is not a sampler: missing method __call__"),
        ("Popen", [], "expected a class that plugged"),
        ("subprocess.Popen", [], "cannot be imported"),
        ("Missing", [], "cannot be imported: AttributeError"),
    ],
)
def test_what_does_not_fit_is_refused(package: str, target: str, overrides: list[Any], message: str):
    with pytest.raises(ConfigError) as caught:
        load(package, target, *overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "line", ["import sys; sys.exit(0)", "raise BaseException('odd')", "import os; exit()", "1 / 0"]
)
def test_a_plugin_that_ends_the_process_is_refused(package: str, tmp_path: Path, line: str):
    name = f"{package}_ends"
    (tmp_path / f"{name}.py").write_text(line)
    plugins.allow_plugins([name], tmp_path)
    with pytest.raises(ConfigError, match=rf"target '{name}\.Sampler' cannot be imported: "):
        load(name, "Sampler")


def test_an_unlisted_package_is_never_imported(tmp_path: Path):
    (tmp_path / "unlisted.py").write_text("raise SystemExit('imported')")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from cogtune.work.load import load_config
from cogtune.config.errors import ConfigError
try:
    load_config({[str(path) for path in BASE]!r}, ["model.sampler_config.target=unlisted.Sampler"], check_files=False)
except ConfigError as error:
    assert "list 'unlisted' under plugins:" in str(error), error
    assert "unlisted" not in sys.modules
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.parametrize("name", ["os", "subprocess", "cogtune", "a.b", "a b", "", "nowhere_to_be_found"])
def test_names_that_cannot_be_listed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugins, "_LISTED", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ConfigError, match="plugins"):
        plugins.allow_plugins([name], tmp_path)
    assert not plugins.is_listed(f"{name}.x")
