"""Keys of `model`: network, VAE, text encoder and diffusion process (upstream: diffusion_video)."""

from dataclasses import dataclass
from typing import Any

from cogtune.config.schema.common import FACTOR, REQUIRED, SHARE, key

Component = dict[str, Any]


@dataclass(kw_only=True)
class ModelSection:
    """All keys of the section."""

    network_config: Component = key(REQUIRED, "the diffusion transformer", node="network")
    denoiser_config: Component = key(REQUIRED, "converts the network's output to the clean latent", node="denoiser")
    sampler_config: Component = key(REQUIRED, "samples a clean latent from noise", node="sampler")
    conditioner_config: Component = key(REQUIRED, "the text encoder", node="conditioner")
    first_stage_config: Component = key(REQUIRED, "the VAE", node="autoencoder")
    loss_fn_config: Component = key(REQUIRED, "the training loss", node="loss")
    weights_dir: str = key(
        "",
        "folder of the published weights (`cogtune weights get`): the default of args.load is its transformer/, and the "
        "shipped files name it as ${model.weights_dir} (ours)",
    )
    scale_factor: float = key(1.0, "factor of the latents (2B: 1.15258426, 5B and 1.5: 0.7)", range=FACTOR)
    not_trainable_prefixes: list[str] = key(
        ["first_stage_model", "conditioner"],
        "weights whose names start with one of these are frozen; `all` freezes all but LoRA adapters",
    )
    lora_train: bool = key(False, "LoRA mode: same as `not_trainable_prefixes: [all]`; needs modules.lora_config")
    noised_image_input: bool = key(False, "image-to-video: concatenate the first frame's latent with the noise")
    noised_image_all_concat: bool = key(False, "image-to-video: repeat the image over all frames instead of zeros")
    noised_image_dropout: float = key(0.0, "image-to-video: fraction of clips trained without the image", range=SHARE)
    image_scale_factor: float | None = key(
        None,
        "image-to-video: factor of the image's latent, in training and sampling; null: scale_factor, or "
        "1 / scale_factor for a network with ofs (1.5), as for the published weights (ours)",
        range=FACTOR,
    )
    compile_model: bool = key(False, "torch.compile", without_effect="the network runs uncompiled")
    network_wrapper: str | None = key(
        None, "wrapper that passes conditions to the network", choices=["sgm.modules.diffusionmodules.wrappers.OpenAIWrapper", None],
        without_effect="there is only one wrapper",
    )  # fmt: skip
    latent_input: bool = key(
        False,
        "batches hold latents",
        without_effect="training always reads cached latents",
    )
    disable_first_stage_autocast: bool = key(
        False, "disable autocast for the VAE", without_effect="args.encoder_precision sets the precision"
    )
    en_and_decode_n_samples_a_time: int | None = key(
        None,
        "VAE batch",
        without_effect="args.encode_batch and args.sampling_batch set it, and do not change results",
    )
    input_key: str = key("mp4", "batch entry with the video", without_effect="batches have no such entries")
    log_keys: list[str] | None = key(
        None, "conditions to draw into images", without_effect="no images are logged; upstream ignores it too"
    )
    use_pd: bool = key(False, "progressive distillation", without_effect="upstream ignores it too")
    augmentation_dropout: float | None = key(
        None, "in upstream's 1.5 image-to-video file", without_effect="upstream ignores it too"
    )
    lr_scale: float | None = key(
        None, "blurred low-resolution copy of the input", refused="any value crashes upstream; remove it"
    )
