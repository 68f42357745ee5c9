"""The models of a sample job: network, VAE and text encoder, each loaded on first use."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from cogtune.config.build import build, params_of
from cogtune.diffusion.image import image_condition
from cogtune.errors import UserError
from cogtune.model.lora import set_strength
from cogtune.model.start import Start, initial_model, load_trained, lora_of
from cogtune.model.weights import load_weights
from cogtune.model.weights.lora_formats import LORA_FILE
from cogtune.runtime.devices import device_for, dtype_of
from cogtune.sampling.generate import Generator, latent_shape
from cogtune.stages.export import exported, final
from cogtune.stages.job import Job
from cogtune.stages.train import start_of, start_sources
from cogtune.work.content_hashes import proven
from cogtune.work.inputs import GenerationInput, LoadedModel, PromptedInput, TrainInput
from cogtune.work.resolve import LORA

ENDS = (0.0, 1.0)
"""Strengths of a model without a LoRA: before and after training."""


def without_lora(has_base: bool) -> str:
    """Why the strength of a model without LoRA cannot be set, and what is possible."""
    if has_base:
        return "full training changed all weights, so there is no LoRA to multiply; expected 0 (before training) or 1 (after)"
    return "the weights have no LoRA to multiply, and no model before training is known; expected 1"


class SampledModels:
    """The models of one sample job. Files are checked against the job's key when they are read. One network at a time is
    kept."""

    def __init__(self, job: Job[GenerationInput]) -> None:
        self.job, self.settings = job, job.input
        self.trained = _trained(job)
        self.device = device_for(job.one_device or 0)
        self._kept: tuple[str, nn.Module] | None = None

    @property
    def takes_images(self) -> bool:
        """Whether this is an image-to-video model."""
        return _architecture(self.job).image_input

    @property
    def has_lora(self) -> bool:
        """Whether the network has a LoRA, whose strength can be set."""
        return lora_of(_architecture(self.job).network) is not None

    @property
    def has_base(self) -> bool:
        """Whether the model before training is known."""
        prompted = isinstance(self.settings, PromptedInput) and "load" in self.job.upstream
        return self.trained is not None or prompted

    @cached_property
    def vae(self) -> "_InPrecision":
        """The VAE, in ``args.encoder_precision``."""
        with self.job.proven("model.first_stage_config"):
            return _InPrecision(build(self.settings.vae).to(self.device, dtype_of(self.settings.encoder_precision)))

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """The context (L, D) of each caption, on the CPU. The text encoder is loaded for this call only."""
        text = self.job.upstream_job("text") if "text" in self.job.upstream else self.job  # its key covers the encoder
        with text.proven("model.conditioner_config"):
            embedder = build(self.settings.conditioner).embedder(self.device, dtype_of(self.settings.encoder_precision))
            return [embedder.encode([caption])[0].cpu() for caption in captions]

    def at_strength(self, strength: float) -> Generator:
        """The generator of videos of the tuned model with its LoRA multiplied by ``strength``: 1 is the tuned model, 0 the
        model without the LoRA. Generators of other strengths that share the network change too.

        Without a LoRA, 1 is the tuned model, 0 the model before training; other strengths raise UserError.
        """
        if self.has_lora:
            network = self._network("tuned")
            set_strength(network, strength)
            return self._generator(network)
        if strength not in (ENDS if self.has_base else ENDS[1:]):
            raise UserError(f"strength: {strength:g}; {without_lora(self.has_base)}")
        return self.generator("tuned" if strength else "base")

    def generator(self, weights: str) -> Generator:
        """The generator of videos. ``weights``: "tuned", or "base" for the model before training."""
        return self._generator(self._network(weights))

    def _network(self, weights: str) -> nn.Module:
        if self._kept is None or self._kept[0] != weights:
            self._kept = None
            dtype = _precision(self.settings)
            with proven([*start_sources(self.trained or self.job), *self.job.sources(LORA)]):
                if isinstance(self.settings, PromptedInput):
                    network = _prompted(self.job, self.settings, weights, dtype)
                elif self.trained:
                    network = _network(self.job, self.trained, weights, dtype)
                else:
                    network = _loaded(self.job, dtype)
                self._kept = weights, network.to(self.device)
        return self._kept[1]

    def _generator(self, network: nn.Module) -> Generator:
        settings, model = self.settings, _architecture(self.job)
        denoiser, time_rate = build(model.denoiser), params_of(model.network).time_compressed_rate
        decoder = params_of(params_of(settings.vae).decoder_config)
        return Generator(
            denoise=lambda x, a, index, context, concat: denoiser(network, x, a, index, context, concat=concat),
            vae=self.vae,
            shape=latent_shape(decoder, settings.max_num_frames, settings.video_size, time_rate),
            scale_factor=settings.scale_factor,
            seed=settings.seed,
            device=self.device,
            frame_multiple=network.patch_size[0],  # pyright: ignore[reportIndexIssue, reportArgumentType]
            image=image_condition(model.image_input, model.image_scale_factor, model.image_everywhere),
        )


class _InPrecision:
    """A VAE that casts its inputs to its own precision and device."""

    def __init__(self, vae: nn.Module) -> None:
        self._vae, self._parameter = vae, next(vae.parameters())
        self.regularizer = vae.regularizer

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        return self._vae.encode(video_BCTHW.to(self._parameter))  # pyright: ignore[reportCallIssue]

    def decode(self, latent_BCTHW: Tensor) -> Tensor:
        return self._vae.decode(latent_BCTHW.to(self._parameter))  # pyright: ignore[reportCallIssue]


def _trained(job: Job[GenerationInput]) -> Job[TrainInput] | None:
    """The training whose exported result is sampled; None if the weights are those of ``args.load``."""
    return job.upstream_job("export").upstream_job("train", TrainInput) if "export" in job.upstream else None


def _architecture(job: Job[GenerationInput]) -> TrainInput | LoadedModel:
    """The input that describes the model: that of the training, or of this job without training."""
    if (train := _trained(job)) is not None:
        return train.input
    assert isinstance(job.input, LoadedModel)
    return job.input


def _network(job: Job[GenerationInput], train: Job[TrainInput], weights: str, dtype: torch.dtype) -> nn.Module:
    """The model before training ("base"), or with the exported weights, read from the files that users get."""
    start = start_of(train)
    if weights == "base":
        return initial_model(start, dtype)
    path = exported(job.items_dir("export"))
    if path.name != LORA_FILE:
        return initial_model(Start(start.network_config, start.seed, weights=str(path)), dtype)
    network = initial_model(start, dtype)
    load_weights(network, path)
    return network


def _loaded(job: Job[GenerationInput], dtype: torch.dtype) -> nn.Module:
    """The model without training: weights from the args.load path, or the result of the experiment that it names."""
    settings = job.input
    assert isinstance(settings, LoadedModel)
    if "load" not in job.upstream:
        return initial_model(Start(settings.network, job.input.seed, weights=settings.load), dtype)
    earlier = job.upstream_job("load", TrainInput)
    trained = final(earlier, job.input.average)
    return initial_model(Start(settings.network, job.input.seed, before=start_of(earlier), trained=str(trained)), dtype)


def _prompted(job: Job[GenerationInput], settings: PromptedInput, weights: str, dtype: torch.dtype) -> nn.Module:
    """The model of `cogtune sample`: a training's result or, "base", what it started from; or given weights, to which a
    LoRA file may be added. Weights are in memory in ``dtype`` only."""
    if "load" in job.upstream:
        earlier = job.upstream_job("load", TrainInput)
        network = initial_model(start_of(earlier), dtype)
        if weights == "tuned":
            load_trained(network, final(earlier, settings.average))
        return network
    network = initial_model(Start(settings.network, settings.seed, weights=settings.load), dtype)
    run = job.slice.volatile.prompts
    if run is not None and run.lora is not None:
        load_weights(network, run.lora)
    return network


def _precision(settings: GenerationInput) -> torch.dtype:
    return dtype_of("bf16" if settings.bf16 else "fp16" if settings.fp16 else "fp32")
