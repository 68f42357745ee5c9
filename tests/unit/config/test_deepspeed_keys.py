"""Our list of DeepSpeed keys against the DeepSpeed that is installed."""

import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cogtune.config.schema import deepspeed as ours
from cogtune.config.schema.common import fields_of


@pytest.fixture(scope="module")
def installed():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    return pytest.importorskip("deepspeed")


def names_of(model: Any) -> set[str]:
    """Fields of a pydantic model, by every name that it answers to."""
    found = set(model.model_fields)
    return found | {field.alias for field in model.model_fields.values() if field.alias}


@pytest.mark.heavy
def test_sections_know_no_key_that_deepspeed_refuses(installed: ModuleType):
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.monitor.config import CSVConfig, TensorBoardConfig, WandbConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    for schema, theirs in (
        (ours.ZeroOptimization, DeepSpeedZeroConfig),
        (ours.OffloadOptimizer, DeepSpeedZeroOffloadOptimizerConfig),
        (ours.OffloadParam, DeepSpeedZeroOffloadParamConfig),
        (ours.Bf16, DeepSpeedBF16Config),
        (ours.Fp16, DeepSpeedFP16Config),
        (ours.Monitor, TensorBoardConfig),
        (ours.Monitor, CSVConfig),
        (ours.Wandb, WandbConfig),
        (ours.CommsLogger, CommsLoggerConfig),
    ):
        assert set(fields_of(schema)) <= names_of(theirs), schema.__name__


def test_every_top_level_key_that_deepspeed_reads_is_on_our_list(installed: ModuleType):
    """DeepSpeed ignores unknown top-level keys, so our list has to know them: read off the constants of its config."""
    from deepspeed.runtime import constants

    assert installed.__file__ is not None
    folder = Path(installed.__file__).parent / "runtime"
    source = (folder / "config.py").read_text()
    used = set(re.findall(r"get_scalar_param\(param_dict, ([A-Z0-9_]+),", source))
    used |= set(re.findall(r"(?:if|and) ([A-Z0-9_]+) in param_dict(?:\.keys\(\))?[: ]", source))
    read = {getattr(constants, name) for name in used if hasattr(constants, name)}
    read |= set(re.findall(r"param_dict\.get\(['\"](\w+)['\"]", source))
    known = set(fields_of(ours.DeepSpeedSection)) | ours.REFUSED.keys()
    assert len(read) >= 20
    assert read - known == set()


def test_removed_keys_are_refused(installed: ModuleType):
    from deepspeed.runtime.config import _REMOVED_TOP_LEVEL_CONFIG_KEYS

    assert _REMOVED_TOP_LEVEL_CONFIG_KEYS.keys() <= ours.REFUSED.keys()
