"""Keys of `model`: the engine around network, VAE and text encoder (upstream: diffusion_video)."""

from dataclasses import dataclass
from typing import Any

from cogtune.config.schema.common import FACTOR, REQUIRED, SHARE, key

Component = dict[str, Any]


@dataclass(kw_only=True)
class ModelSection:
    """The whole section."""

    network_config: Component = key(REQUIRED, "the diffusion transformer", node="network")
    denoiser_config: Component = key(REQUIRED, "from the network's output to the clean latent", node="denoiser")
    sampler_config: Component = key(REQUIRED, "from noise to a clean latent", node="sampler")
    conditioner_config: Component = key(REQUIRED, "the text encoder", node="conditioner")
    first_stage_config: Component = key(REQUIRED, "the VAE", node="autoencoder")
    loss_fn_config: Component = key(REQUIRED, "the training loss", node="loss")
    scale_factor: float = key(1.0, "latents are multiplied by it (2B: 1.15258426, 5B and 1.5: 0.7)", range=FACTOR)
    not_trainable_prefixes: list[str] = key(
        ["first_stage_model", "conditioner"],
        "names that start so are frozen, `all` freezes everything; LoRA adapters train in any case",
    )
    lora_train: bool = key(False, "LoRA mode: as `not_trainable_prefixes: [all]`; needs modules.lora_config")
    noised_image_input: bool = key(False, "image-to-video: the first frame's latent stands beside the noise")
    noised_image_all_concat: bool = key(False, "image-to-video: repeat the image over all frames instead of zeros")
    noised_image_dropout: float = key(0.0, "image-to-video: share of samples that train without the image", range=SHARE)
    image_scale_factor: float | None = key(
        None,
        "image-to-video: the image's latent is multiplied by it, in training and in sampling; null: scale_factor, and "
        "1 / scale_factor for a network with ofs (1.5), as the published weights are sampled (ours)",
        range=FACTOR,
    )
    compile_model: bool = key(False, "torch.compile", without_effect="the network runs uncompiled here")
    network_wrapper: str | None = key(
        None, "how conditions reach the network", choices=["sgm.modules.diffusionmodules.wrappers.OpenAIWrapper", None],
        without_effect="there is one wrapper",
    )  # fmt: skip
    latent_input: bool = key(
        False,
        "batches hold latents",
        without_effect="training always reads the latent cache, which is made from the clips",
    )
    disable_first_stage_autocast: bool = key(
        False, "no autocast around the VAE", without_effect="args.encoder_precision decides"
    )
    en_and_decode_n_samples_a_time: int | None = key(
        None,
        "VAE batch",
        without_effect="args.encode_batch and args.sampling_batch decide, and change no result",
    )
    input_key: str = key("mp4", "which part of a batch is the video", without_effect="there is no such batch here")
    log_keys: list[str] | None = key(
        None, "conditions drawn into images", without_effect="no images are logged; upstream never does it either"
    )
    use_pd: bool = key(False, "progressive distillation", without_effect="upstream stores it and never reads it")
    augmentation_dropout: float | None = key(
        None, "stands in upstream's 1.5 image-to-video file", without_effect="upstream reads it nowhere"
    )
    lr_scale: float | None = key(
        None, "blurred low-resolution copy of the input", refused="any value crashes upstream; leave it out"
    )
