"""config/ can be imported, and configs checked, without torch and without snakemake."""

import subprocess
import sys

SCRIPT = """
import importlib, pkgutil, sys
import cogtune.config
for module in pkgutil.walk_packages(cogtune.config.__path__, "cogtune.config."):
    importlib.import_module(module.name)
from cogtune.config.merge import load_config
load_config(["config/cogvideox_2b.yaml", "config/sft.yaml"], check_files=False)
heavy = {"torch", "snakemake", "deepspeed", "transformers", "numpy"} & sys.modules.keys()
sys.exit(f"imported: {heavy}" if heavy else 0)
"""


def test_config_is_light(request):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=request.config.rootpath, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
