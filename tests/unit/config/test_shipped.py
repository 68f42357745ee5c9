"""The files in config/ and upstream's own: accepted, and ours hold upstream's values."""

from pathlib import Path

import pytest

from cogtune.commands.config_show import diff
from cogtune.config.errors import ConfigError
from cogtune.work.load import load_config

CONFIG = Path(__file__).parents[3] / "config"
UPSTREAM = Path(__file__).parents[2] / "upstream_configs"
UPSTREAM_MODELS = sorted(path.stem for path in UPSTREAM.glob("cogvideox*.yaml"))
MODELS = sorted(path.stem for path in CONFIG.glob("cogvideox*.yaml") if path.stem != "cogvideox_common")
SAMPLED_ELSEWHERE = "position table"

OURS = {
    "args.train_data",
    "args.valid_data",
    "args.eval_iters",  # upstream's one draw per validation is mostly noise
    "args.load",  # ours name the folders of `cogtune weights get`
    "model.first_stage_config.params.ckpt_path",
    "model.conditioner_config.params.emb_models.0.params.model_dir",
    "deepspeed.zero_optimization.load_from_fp32_weights",  # upstream's false rounds the weights on resume
}


def load(folder: Path, model: str, rest: str = "sft", *overrides: str):
    return load_config([folder / f"{model}.yaml", folder / f"{rest}.yaml"], overrides, check_files=False)


@pytest.mark.parametrize("model", MODELS)
def test_ours_are_accepted_without_a_key_that_has_no_effect(model: str):
    assert not [notice for notice in load(CONFIG, model).notices if ": ignored: " in notice]


@pytest.mark.parametrize("name", ["demo", "demo_lora"])
def test_the_demo_has_no_key_without_effect(name: str):
    """So that a note about such a key is always about a key of the user."""
    config = load_config([CONFIG / f"tiny/{name}.yaml"], check_files=False)
    assert not [notice for notice in config.notices if ": ignored: " in notice]


@pytest.mark.parametrize("model", [model for model in MODELS if model.startswith("cogvideox1.5")])
def test_ours_sample(model: str):
    assert load(CONFIG, model, "inference").values["data"]["params"]["max_num_frames"] == 81


@pytest.mark.parametrize("model", ["cogvideox_2b", "cogvideox_5b", "cogvideox1.5_5b"])
def test_variants_are_overlays(model: str):
    short = load(CONFIG, f"{model}_lora")
    long = load_config([CONFIG / f"{name}.yaml" for name in (model, "lora", "sft")], check_files=False)
    assert short.values == long.values


@pytest.mark.parametrize("model", UPSTREAM_MODELS)
def test_ours_hold_upstreams_values(model: str):
    changed = {line.partition(":")[0] for line in diff(load(UPSTREAM, model), load(CONFIG, model))}
    assert changed == OURS


@pytest.mark.parametrize("model", UPSTREAM_MODELS)
def test_upstreams_training_files_are_accepted_unmodified(model: str):
    config = load(UPSTREAM, model, "sft", "args.load=weights")
    misplaced = [notice for notice in config.notices if notice.startswith("deepspeed.loss_scale")]
    assert len(misplaced) == 1
    assert all(name in misplaced[0] for name in ("loss_scale_window", "hysteresis", "min_loss_scale"))
    assert len(config.notices) == len(set(config.notices))


@pytest.mark.parametrize("model", UPSTREAM_MODELS)
def test_upstreams_sampling_file_is_accepted_or_refused_for_a_true_reason(model: str):
    """inference.yaml asks for 1.5's size; models with a fixed grid of 480x720 cannot sample it."""
    if (model.startswith("cogvideox_5b") and "i2v" not in model) or model.startswith("cogvideox1.5"):
        assert load(UPSTREAM, model, "inference").values["data"]["params"]["video_size"] == [768, 1360]
        return
    with pytest.raises(ConfigError, match=SAMPLED_ELSEWHERE):
        load(UPSTREAM, model, "inference")
    native = ("args.sampling_image_size=[480,720]", "args.sampling_num_frames=13")
    assert load(UPSTREAM, model, "inference", *native).values["args"]["mode"] == "inference"


def test_upstreams_templates_are_to_be_filled_in():
    with pytest.raises(ConfigError) as caught:
        load_config([UPSTREAM / "cogvideox_2b.yaml", UPSTREAM / "sft.yaml"])
    assert "sft.yaml:6:3: args.load: {your CogVideoX SAT folder} is a placeholder" in str(caught.value)
