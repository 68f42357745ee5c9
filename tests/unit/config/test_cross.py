"""Keys that contradict each other, and keys that decide over others."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cogtune.config.deepspeed_limits import stage_of
from cogtune.config.errors import ConfigError, ConfigErrors
from cogtune.work.load import load_config

CONFIG = Path(__file__).parents[3] / "config"
NET = "model.network_config.params"
POS = f"{NET}.modules.pos_embed_config.params"
SAMPLER = "model.sampler_config.params"
SIGMAS = "model.loss_fn_config.params.sigma_sampler_config.params"
LORA = f"{NET}.modules.lora_config"


def load(model: str, *overrides: str, rest: str = "sft.yaml"):
    return load_config([CONFIG / f"{model}.yaml", CONFIG / rest], overrides, check_files=False)


CONTRADICTIONS = [
    ("cogvideox_5b", "data.params.max_num_frames=48", "48 is not 4k . 1, which the VAE needs; expected 45 or 49"),
    ("cogvideox_5b", "data.params.max_num_frames=3", "expected|1 or 5"),
    ("cogvideox_5b", "args.keep_best=true", "args.keep_best: true, but args.valid_data is not set; the best step"),
    (
        "cogvideox_5b",
        "args.keep_best=true args.valid_data=[a] args.eval_interval=null",
        "but args.eval_interval is not",
    ),
    ("cogvideox_5b", f"{NET}.time_compressed_rate=8", "8; expected 4, as the VAE compresses 4 frames into one"),
    ("cogvideox_5b", "data.params.video_size=[480,724]", "width 724 is not a multiple of 16; expected 720 or 736"),
    ("cogvideox_5b", "data.params.video_size=[480]", r"expected \[height, width\]"),
    ("cogvideox_2b", "data.params.video_size=[256,256]", r"expected \[480, 720\] .*sine-cosine position table"),
    ("cogvideox_5b_i2v", "data.params.video_size=[256,256]", r"expected \[480, 720\] .*learned position table"),
    ("cogvideox_2b", "data.params.max_num_frames=53", "53 frames; the sine-cosine position table holds at most 49"),
    ("cogvideox_5b", f"{NET}.patch_size=[1,2]", r"expected \[latent frames, rows, columns\]; found 2"),
    ("cogvideox_5b", f"{NET}.latent_width=91", "91 is not a multiple of the patch size 2"),
    ("cogvideox_5b", f"{NET}.in_channels=32", "expected 16, .*for image-to-video set model.noised_image_input: true"),
    ("cogvideox_5b", "model.noised_image_input=true", "in_channels: 16; expected 32"),
    ("cogvideox_5b", f"{NET}.out_channels=8", "8; expected 16, the VAE's z_channels"),
    ("cogvideox_5b", "model.first_stage_config.params.decoder_config.params.z_channels=8", "expected the encoder's"),
    (
        "cogvideox_5b",
        "model.first_stage_config.params.encoder_config.params.ch=40",
        "40 channels .* are not a multiple of 32",
    ),
    ("cogvideox_5b", f"{POS}.text_length=224 ", "224; expected 226, the text encoder's max_length"),
    ("cogvideox_5b", f"{NET}.num_attention_heads=47", "3072 is not a multiple of num_attention_heads, 47"),
    (
        "cogvideox_5b",
        f"{POS}.theta=500 args.export_formats=[sat,diffusers]",
        "diffusers is for diffusers' network .*theta: 500; diffusers always uses 10000.; expected sat, merged, sat_lora",
    ),
    ("cogvideox_5b_lora", f"{POS}.theta=500 args.export_formats=[peft]", "peft is for diffusers' network"),
    ("cogvideox_5b", f"{NET}.patch_size=[1,2,4] args.export_formats=[diffusers]", "supports square patches only"),
    ("cogvideox_5b", f"{POS}.hidden_size_head=32", "32; expected hidden_size / num_attention_heads, 64"),
    ("cogvideox_2b", f"{NET}.hidden_size=1930 {NET}.num_attention_heads=1", "sine-cosine positions need a multiple"),
    ("cogvideox1.5_5b_i2v", f"{NET}.ofs_embed_dim=256", "256 must equal time_embed_dim, .*512"),
    ("cogvideox_5b", "model.denoiser_config.params.quantize_c_noise=true", "expected false"),
    ("cogvideox_5b", "model.lora_train=true", "(?s)no weight is trained; add .*lora_config:"),
    ("cogvideox_5b", "model.not_trainable_prefixes=[all]", "(?s)no weight is trained; add .*lora2.LoraMixin"),
    (
        "cogvideox_5b_lora",
        f"{LORA}.params.layer_range=[0,42]",
        "layer 42 does not exist; the network has layers 0 to 41",
    ),
    ("cogvideox_5b", "deepspeed.fp16.enabled=true", "but bf16.enabled is true too"),
    (
        "cogvideox_5b",
        "deepspeed.zero_optimization.offload_optimizer.ratio=0.5",
        r"ratio: 0\.5; needs DeepSpeedCPUAdam",
    ),
    ("cogvideox_5b", "args.epochs=3", "3, but train_iters is set too .1000.; set one of them to null"),
    (
        "cogvideox_5b",
        "args.global_batch_size=2 deepspeed.train_micro_batch_size_per_gpu=3",
        "train_micro_batch_size_per_gpu: 3 clips in one pass, but a step has 2 .*; set it to 2 or less",
    ),
    (
        "cogvideox_5b",
        f"{SIGMAS}.num_idx=10",
        "sigma_sampler_config.params.num_idx: 10; expected 1000, the num_timesteps",
    ),
    ("cogvideox_5b", "model.denoiser_config.params.num_idx=999", "num_idx: 999; expected 1000"),
    (
        "cogvideox_5b",
        f"{SAMPLER}.discretization_config.params.linear_start=0.1",
        "expected less than linear_end, 0.012",
    ),
    ("cogvideox_5b", f"{SAMPLER}.num_steps=25", "guider_config.params.num_steps: 50, but the sampler takes 25 steps"),
    ("cogvideox_5b", f"{SAMPLER}.num_steps=1001", "num_steps: 1001; the noise schedule has 1000 timesteps"),
    ("cogvideox_5b", "args.sampling_steps=1001", "args.sampling_steps: 1001; the noise schedule has 1000 timesteps"),
    (
        "cogvideox_5b",
        "args.input_type=txt args.image2video=true",
        "image2video: true, but this is not an image-to-video model",
    ),
    ("cogvideox_5b_i2v", "args.input_type=txt args.image2video=false", "image2video: false, but the model needs an"),
]


@pytest.mark.parametrize(("model", "overrides", "message"), CONTRADICTIONS)
def test_contradictions(model: str, overrides: str, message: str):
    words = overrides.split()
    if "text_length=224" in overrides:
        words.append("model.conditioner_config.params.emb_models.0.params.max_length=226")
    with pytest.raises(ConfigError, match=message):
        load(model, *words)


def test_the_guiders_ramp_follows_args_sampling_steps():
    params = load("cogvideox_5b", "args.sampling_steps=25").values["model"]["sampler_config"]["params"]
    assert params["guider_config"]["params"]["num_steps"] == 25


@pytest.mark.parametrize("section", ["deepspeed", "args", "model", "data"])
@pytest.mark.parametrize("value", ["null", "5", "[1]"])
def test_a_section_that_is_no_mapping_is_the_only_error(section: str, value: str):
    with pytest.raises(ConfigError) as caught:
        load("cogvideox_5b", f"{section}={value}", "args.global_batch_size=2" if section != "args" else "args=7")
    errors = caught.value.errors if isinstance(caught.value, ConfigErrors) else [caught.value]
    assert [error.key for error in errors] == [section]


def test_inference_does_not_ask_for_data_that_it_does_not_read(tmp_path: Path):
    size = "data.target=SFTDataset data.params.video_size=[480,720] data.params.fps=8 data.params.max_num_frames=49"
    words = [
        "args.train_data=[/nowhere/train]",
        "args.valid_data=[/nowhere/valid]",
        "args.input_type=txt",
        *size.split(),
    ]
    (tmp_path / "prompts.txt").write_text("a cat\n")
    words += [f"args.input_file={tmp_path}/prompts.txt", "args.load={experiment}", "args.mode=inference"]
    with pytest.raises(ConfigError) as caught:
        load_config(CONFIG / "cogvideox_5b.yaml", words)
    assert "nowhere" not in str(caught.value)
    config = load_config(CONFIG / "cogvideox_5b.yaml", words, check_files=False)
    assert not any("data" in key for key in config.files)
    (notice,) = (notice for notice in config.notices if "args.mode is inference" in notice)
    assert notice.startswith("args.train_data, args.valid_data: ignored: ")
    with pytest.raises(ConfigError, match=r"args\.train_data\.0: no such file or folder: '/nowhere/train'"):
        load_config(CONFIG / "cogvideox_5b.yaml", [*words, "args.mode=finetune"])


@pytest.mark.parametrize("value", ["0", "1e-11", "-1"])
@pytest.mark.parametrize("key", ["args.lr", "deepspeed.optimizer.params.lr"])
def test_a_rate_that_moves_nothing_is_refused(key: str, value: str):
    with pytest.raises(ConfigError, match=r"lr: expected 1e-10 to 1, because .*rounds steps below 1e-10 away"):
        load("cogvideox_5b", f"{key}={value}")


@pytest.mark.parametrize("value", ["[]", "null"])
def test_training_needs_folders(value: str):
    with pytest.raises(ConfigError, match=r"args\.train_data: not set; expected a list of folders with videos/"):
        load_config([CONFIG / "cogvideox_5b.yaml", CONFIG / "sft.yaml"], [f"args.train_data={value}", "args.load=null"])


@pytest.mark.parametrize("key", ["args.train_data", "args.valid_data", "args.load"])
def test_an_empty_path_is_not_the_working_folder(key: str):
    value = "''" if key == "args.load" else "['']"
    with pytest.raises(ConfigError, match=rf"{key}: expected .*path.* empty.*, which would mean the current directory"):
        load("cogvideox_5b", f"{key}={value}")


def test_fp16_is_accepted_at_stage_0_which_runs_as_1():
    size = "data.target=SFTDataset data.params.video_size=[480,720] data.params.fps=8 data.params.max_num_frames=49"
    config = load_config(CONFIG / "cogvideox_2b.yaml", ["--fp16", *size.split()], check_files=False)
    assert config.values["deepspeed"]["zero_optimization"]["stage"] == 0
    assert stage_of(config.values["deepspeed"]) == 1


def test_inference_needs_no_data_section_and_takes_upstreams_sizes():
    data = load("cogvideox1.5_5b", rest="inference.yaml").values["data"]["params"]
    assert (data["video_size"], data["max_num_frames"], data["fps"]) == ([768, 1360], 81, 16.0)
    with pytest.raises(
        ConfigError, match=r"args\.sampling_image_size: \[768, 1360\]; expected .*sine-cosine position table"
    ):
        load("cogvideox_2b", rest="inference.yaml")
    native = ("args.sampling_image_size=[480,720]", "args.sampling_num_frames=13", "args.sampling_fps=8")
    assert load("cogvideox_2b", *native, rest="inference.yaml").values["data"]["params"]["max_num_frames"] == 49


def test_training_needs_a_data_section():
    with pytest.raises(ConfigError, match=r"data: section missing; expected `target: data_video\.SFTDataset`"):
        load("cogvideox1.5_5b", "args.mode=finetune", rest="inference.yaml")


def test_where_the_section_is_silent_args_decide():
    size = "data.target=SFTDataset data.params.video_size=[480,720] data.params.fps=8 data.params.max_num_frames=49"
    words = ["--lr", "1e-3", "--batch-size", "3", "--bf16", *size.split()]
    config = load_config(CONFIG / "cogvideox_5b.yaml", words, check_files=False)
    section = config.values["deepspeed"]
    assert section["optimizer"]["params"]["lr"] == 1e-3
    assert section["train_micro_batch_size_per_gpu"] == 3
    assert section["bf16"]["enabled"] is True
    assert config.values["args"]["train_iters"] == 10_000
    assert any("args.train_iters: neither it nor args.epochs is set" in notice for notice in config.notices)


def test_names_of_checkpoint_policies_change_no_digest() -> None:
    """SAT's true and false are what they are stored as, so a config that says the same has the same key."""
    for name, old in (("full", "true"), ("selective", "false")):
        values = [
            load(
                "cogvideox_5b",
                f"args.checkpoint_activations={word}",
                f"{NET}.transformer_args.checkpoint_activations={old}",
            )
            for word in (name, old)
        ]
        assert values[0].values == values[1].values


def test_an_unknown_checkpoint_policy_is_refused() -> None:
    with pytest.raises(
        ConfigErrors, match="expected true, false, full, attention, selective or none; found 'selectiv'"
    ):
        load("cogvideox_5b", "args.checkpoint_activations=selectiv")


def test_the_prompt_file_counts_only_with_input_type_txt():
    config = load("cogvideox_5b", "args.input_file=x.txt")
    assert config.values["args"]["input_file"] is None
    assert any(notice.startswith("args.input_file: ignored: ") for notice in config.notices)
    config = load("cogvideox_5b", "args.input_file=x.txt", "args.input_type=txt")
    assert config.values["args"]["input_file"] == "x.txt"
    assert config.files["args.input_file"].endswith("/x.txt")
    assert load("cogvideox_5b", "args.input_type=txt").files["args.input_file"].endswith("/input.txt")
    with pytest.raises(ConfigError, match=r"args\.input_file: no such file or folder: 'input\.txt'"):
        load_config([CONFIG / "cogvideox_5b.yaml", CONFIG / "sft.yaml"], ["args.input_type=txt"])


@pytest.mark.parametrize(
    ("model", "overrides", "remark"),
    [
        ("cogvideox1.5_5b", [], "49 frames are 13 latent frames, not a multiple of the patch size 2"),
        ("cogvideox_5b", ["data.params.max_num_frames=81"], "the largest size that this model was trained on"),
        (
            "cogvideox_5b_lora",
            ["model.not_trainable_prefixes=[]"],
            "the LoRA adapters and all other weights are trained",
        ),
        (
            "cogvideox_5b",
            ["model.sampler_config.params.discretization_config.params.shift_scale=3"],
            "differs from the noise schedule of",
        ),
        ("cogvideox_2b", [], "CogVideoX-2B was trained in fp16"),
        ("cogvideox_5b", ["deepspeed.bf16.enabled=false", "deepspeed.fp16.enabled=true"], "watch for overflow"),
        (
            "cogvideox_5b",
            ["args.global_batch_size=8", "deepspeed.gradient_accumulation_steps=2"],
            "deepspeed.gradient_accumulation_steps: 2 is ignored: accumulation follows from args.global_batch_size",
        ),
        (
            "cogvideox_5b",
            ["deepspeed.zero_optimization.stage=3", "args.checkpoint_activations=none"],
            "none keeps all weights that ZeRO stage 3 gathers",
        ),
    ],
)
def test_what_is_legal_but_surprising_is_remarked_on(model: str, overrides: list[Any], remark: str):
    assert any(remark in notice for notice in load(model, *overrides).notices)


@pytest.mark.parametrize(
    ("model", "overrides", "scale"),
    [
        ("cogvideox_5b_i2v", [], 0.7),
        ("cogvideox_5b_i2v", ["model.scale_factor=0.5"], 0.5),
        ("cogvideox1.5_5b_i2v", [], 1 / 0.7),
        ("cogvideox1.5_5b_i2v", ["model.image_scale_factor=1.0"], 1.0),
    ],
)
def test_the_image_is_scaled_as_its_family_is_sampled(model: str, overrides: list[Any], scale: float):
    assert load(model, *overrides).values["model"]["image_scale_factor"] == scale


def test_a_text_to_video_config_has_no_keys_of_the_image():
    config = load("cogvideox_5b", "model.noised_image_dropout=0.3", "args.image_noise_draws=7")
    assert not {"noised_image_dropout", "noised_image_all_concat", "image_scale_factor"} & set(config.values["model"])
    assert config.values == load("cogvideox_5b").values
    (notice,) = (notice for notice in config.notices if "noised_image_input is false" in notice)
    assert notice.startswith("model.noised_image_dropout, args.image_noise_draws: ignored: ")


def test_an_image_to_video_model_reads_images_from_its_prompt_file():
    assert load("cogvideox1.5_5b_i2v", rest="inference.yaml").values["args"]["image2video"] is True
    assert load("cogvideox1.5_5b", rest="inference.yaml").values["args"]["image2video"] is False


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "model.loss_fn_config.params.fixed_frames=3",
            "not supported: model.loss_fn_config.params.fixed_frames: 3, but upstream ignores it too; all frames are noised",
        ),
        (
            "args.train_data=[a] args.valid_data=[a,b]",
            "args.valid_data: a is also in train_data, so the model trains on its clips",
        ),
        (
            "args.train_data=[a/b] args.valid_data=[a,c/../a/b/,a/b/videos,a/bc]",
            "args.valid_data: c/../a/b/, a/b/videos is also in train_data",
        ),
        (
            "args.train_data=[a] args.valid_data.far=[b] args.valid_data.near=[c,a/d]",
            "args.valid_data: a/d is also in train_data",
        ),
        ("args.valid_data=[b] args.eval_iters=1 args.eval_batch_size=1", "args.eval_iters: 1 x 1 draws per validation"),
        (
            "model.first_stage_config.params.ckpt_path=null",
            "model.first_stage_config.params.ckpt_path: not set, so the VAE has random",
        ),
        ("args.load=null args.mode=finetune", "args.load: not set, so training starts from random weights"),
    ],
)
def test_what_will_not_happen_is_told_apart_from_what_does_no_harm(override: str, told: str):
    assert any(notice.startswith(told) for notice in load("cogvideox_5b", *override.split()).notices)


def test_a_request_at_its_default_is_no_news():
    config = load("cogvideox_5b", "model.loss_fn_config.params.fixed_frames=0")
    assert not [notice for notice in config.notices if notice.startswith("not supported")]


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
@pytest.mark.parametrize("key", ["args.wandb", "deepspeed.wandb.enabled"])
def test_weights_and_biases_must_be_installed(key: str):
    with pytest.raises(ConfigError, match=rf"{key}: true; Weights & Biases is not installed; `pip install wandb`"):
        load("cogvideox_5b", f"{key}=true")


def test_samples_have_no_clean_prefix():
    with pytest.raises(ConfigError, match=r"fixed_frames: 1; all frames of a sample start from noise"):
        load("cogvideox_5b", f"{SAMPLER}.fixed_frames=1")


@pytest.mark.parametrize("name", ["list.csv", "train.json"])
@pytest.mark.parametrize("key", ["train_data", "valid_data"])
def test_a_list_of_clips_is_refused_where_a_folder_stands(tmp_path: Path, key: str, name: str):
    (tmp_path / name).write_text("path,caption\n")
    with pytest.raises(ConfigError, match=rf"args\.{key}\.0: '.*{name}' is a file; expected a folder with videos/ and"):
        load_config([CONFIG / "cogvideox_5b.yaml", CONFIG / "sft.yaml"], [f"args.{key}=[{tmp_path / name}]"])


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (
            "gradient_clipping",
            "`auto` is supported by accelerate only; leave the key out: maximum norm of the gradient",
        ),
        ("train_micro_batch_size_per_gpu", "`auto` is supported by accelerate only; leave the key out"),
        ("train_batch_size", "'auto' is not available: remove it, or set args.global_batch_size"),
    ],
)
def test_auto_is_to_be_left_out(key: str, told: str):
    with pytest.raises(ConfigError) as caught:
        load("cogvideox_5b", f"deepspeed.{key}=auto")
    assert told in str(caught.value)
