"""The rooms of the main process import without torch and without snakemake; config/ without numpy too."""

import subprocess
import sys

import pytest

SCRIPT = """
import importlib, pkgutil, sys
room = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(room.__path__, sys.argv[1] + "."):
    importlib.import_module(module.name)
from cogtune.work.load import load_config
load_config(["config/cogvideox_2b.yaml", "config/sft.yaml"], check_files=False)
heavy = set(sys.argv[2:]) & sys.modules.keys()
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
HEAVY = ("torch", "snakemake", "deepspeed", "transformers")


@pytest.mark.parametrize(
    ("room", "heavy"),
    [("config", (*HEAVY, "numpy")), ("checkpoints", (*HEAVY, "numpy")), ("work", HEAVY), ("plan", HEAVY)],
    ids=["config", "checkpoints", "work", "plan"],
)
def test_the_main_process_is_light(room: str, heavy: tuple[str, ...], request: pytest.FixtureRequest) -> None:
    words = [sys.executable, "-c", SCRIPT, f"cogtune.{room}", *heavy]
    done = subprocess.run(words, cwd=request.config.rootpath, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
