"""Imported once by the server of `tests.forked`: all that a stage, a rank of training or a test's own code imports."""

import importlib
import os
import pkgutil

os.environ["DS_ACCELERATOR"] = "cpu"

import torch

import cogtune

MODULES = [module.name for module in pkgutil.walk_packages(cogtune.__path__, "cogtune.")]
# DeepSpeed imports the first in every engine, and its decorators import PyTorch's compiler.
OTHERS = ["deepspeed.runtime.zero.muon.muon_optimizer", "pytest", "tests.forked_ranks", "tests.unit.stages.finished"]
for name in [*MODULES, *OTHERS]:
    importlib.import_module(name)
torch.set_num_threads(1)
