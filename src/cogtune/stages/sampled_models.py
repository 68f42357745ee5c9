"""The models of a sample job: network, VAE and text encoder, each loaded on first use."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from cogtune.config.build import build, params_of
from cogtune.diffusion.image import image_condition
from cogtune.model.start import Start, initial_model
from cogtune.model.weights import load_weights
from cogtune.model.weights.lora_formats import LORA_FILE
from cogtune.runtime.devices import device_for, dtype_of
from cogtune.sampling.generate import Generator, latent_shape
from cogtune.stages.export import exported, final
from cogtune.stages.job import Job
from cogtune.stages.train import start_of, start_sources
from cogtune.work.content_hashes import proven
from cogtune.work.inputs import LoadedSampleInput, SampleInput, TrainInput


class SampledModels:
    """The models of one sample job. Files are checked against the job's key when they are read."""

    def __init__(self, job: Job[SampleInput]) -> None:
        self.job, self.settings = job, job.input
        self.trained = _trained(job)
        self.device = device_for(job.one_device or 0)

    @property
    def takes_images(self) -> bool:
        """Whether this is an image-to-video model."""
        return _architecture(self.job).image_input

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

    def generator(self, weights: str) -> Generator:
        """The generator of videos. ``weights``: "tuned", or "base" for the model before training."""
        settings, model, dtype = self.settings, _architecture(self.job), _precision(self.settings)
        with proven(start_sources(self.trained or self.job)):
            network = _network(self.job, self.trained, weights, dtype) if self.trained else _loaded(self.job, dtype)
            network = network.to(self.device)
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


def _trained(job: Job[SampleInput]) -> Job[TrainInput] | None:
    """The training whose result is sampled; None with ``args.mode: inference``."""
    return job.upstream_job("export").upstream_job("train", TrainInput) if "export" in job.upstream else None


def _architecture(job: Job[SampleInput]) -> TrainInput | LoadedSampleInput:
    """The input that describes the model: that of the training, or of this job without training."""
    if (train := _trained(job)) is not None:
        return train.input
    assert isinstance(job.input, LoadedSampleInput)
    return job.input


def _network(job: Job[SampleInput], train: Job[TrainInput], weights: str, dtype: torch.dtype) -> nn.Module:
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


def _loaded(job: Job[SampleInput], dtype: torch.dtype) -> nn.Module:
    """The model without training: weights from the args.load path, or the result of the experiment that it names."""
    settings = job.input
    assert isinstance(settings, LoadedSampleInput)
    if "load" not in job.upstream:
        return initial_model(Start(settings.network, settings.seed, weights=settings.load), dtype)
    earlier = job.upstream_job("load", TrainInput)
    trained = final(earlier, settings.average)
    return initial_model(Start(settings.network, settings.seed, before=start_of(earlier), trained=str(trained)), dtype)


def _precision(settings: SampleInput) -> torch.dtype:
    return dtype_of("bf16" if settings.bf16 else "fp16" if settings.fp16 else "fp32")
