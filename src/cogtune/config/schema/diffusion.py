"""Keys of the diffusion process (upstream: sgm.modules.diffusionmodules)."""

from dataclasses import dataclass
from typing import Any

from cogtune.config.schema.common import (
    FACTOR,
    GUIDANCE,
    LATENT_FRAMES,
    REQUIRED,
    SAMPLING_STEPS,
    TIMESTEPS,
    Range,
    key,
)

Component = dict[str, Any]

_DISCRETIZATION = {"target": "ZeroSNRDDPMDiscretization"}
_BETA = Range(1e-8, 0.999, "at 0 there is no noise, and at 1 no signal")
_TABLE = "the table of signal scales is as upstream's own classes make it"
_APPEND = {"refused": f"{_TABLE}; leave it out"}


@dataclass(kw_only=True)
class ZeroSNRDDPMDiscretizationParams:
    """The noise schedule: sqrt-linear betas, SNR shift, rescaled to zero terminal SNR."""

    linear_start: float = key(0.00085, "first beta", range=_BETA)
    linear_end: float = key(0.0120, "last beta", range=_BETA)
    num_timesteps: int = key(1000, "training timesteps", range=TIMESTEPS)
    shift_scale: float = key(1.0, "SNR is divided by this: 3.0 for CogVideoX-2B, 1.0 for the others", range=FACTOR)
    keep_start: bool = key(False, "adapt linear_start so that the shift leaves the first step as it is")
    post_shift: bool = key(False, "shift after the rescale to zero SNR instead of before it")


@dataclass(kw_only=True)
class EpsWeightingParams:
    """Weight 1/sigma^2. Upstream never evaluates it: the loss is plain v-MSE."""


@dataclass(kw_only=True)
class VideoScalingParams:
    """v-prediction: c_skip = a, c_out = -sqrt(1 - a^2)."""


@dataclass(kw_only=True)
class DiscreteDenoiserParams:
    """From the network's v to the clean latent, at the timesteps of the training table."""

    scaling_config: Component = key({"target": "VideoScaling"}, "what the network predicts", node="scaling")
    weighting_config: Component | None = key(
        None,
        "weight of the loss",
        node="weighting",
        without_effect="the loss is plain v-MSE; upstream never evaluates it either",
    )
    discretization_config: Component = key(_DISCRETIZATION, "the noise schedule", node="discretization")
    num_idx: int = key(1000, "timesteps", range=TIMESTEPS)
    quantize_c_noise: bool = key(
        True,
        "snap the timestep; must be false for VideoScaling, whose timestep is an index already",
        choices=[False, True],
    )
    do_append_zero: bool = key(False, "add a last zero", **_APPEND)
    flip: bool = key(True, "order of the table", **_APPEND)


@dataclass(kw_only=True)
class DiscreteSamplingParams:
    """Which timesteps are trained: uniform over all, or stratified over the global batch."""

    discretization_config: Component = key(_DISCRETIZATION, "the noise schedule", node="discretization")
    num_idx: int = key(1000, "timesteps", range=TIMESTEPS)
    uniform_sampling: bool = key(
        False, "stratify: each place of the global batch draws from its own range of timesteps"
    )
    group_num: int = key(
        0,
        "number of ranges with uniform_sampling; 0: one for each sample of the global batch",
        range=Range(0, 10_000, "there are no more timesteps"),
    )
    do_append_zero: bool = key(False, "add a last zero", **_APPEND)
    flip: bool = key(True, "order of the table", **_APPEND)


@dataclass(kw_only=True)
class VideoDiffusionLossParams:
    """The training loss: squared error of v, in fp32."""

    sigma_sampler_config: Component = key(REQUIRED, "which timesteps are trained", node="timesteps")
    type: str = key("l2", "distance", choices=["l2", "l1"])
    offset_noise_level: float = key(
        0.0,
        "one more normal draw per sample, the same in every element, times this",
        range=Range(0, 10, "it is added to noise of standard deviation 1; 0.1 is usual"),
    )
    min_snr_value: float | None = key(
        None,
        "cap of the min-SNR weight; null: no weight",
        range=Range(0.001, 1_000_000, "0 gives every loss the weight 0; 5 is usual"),
    )
    fixed_frames: int = key(
        0,
        "frames of a clean prefix",
        unit="latent frames",
        without_effect="upstream stores it and never reads it",
        request="all frames are noised in training",
    )
    block_scale: float | None = key(
        None,
        "scale of block noise",
        without_effect="upstream stores it and never reads it",
        request="the noise is plain",
    )
    block_size: int | None = key(
        None,
        "size of block noise",
        without_effect="upstream stores it and never reads it",
        request="the noise is plain",
    )
    batch2model_keys: str | list[str] | None = key(
        None, "batch entries that go to the network", without_effect="the network gets what it needs by itself"
    )


@dataclass(kw_only=True)
class VideoDDIMSamplerParams:
    """From noise to a clean latent. The same keys for DDIM and the two DPM-Solver++ samplers."""

    discretization_config: Component = key(_DISCRETIZATION, "the noise schedule", node="discretization")
    num_steps: int = key(
        REQUIRED, "network evaluations (each one twice with guidance)", unit="steps", range=SAMPLING_STEPS
    )
    guider_config: Component | None = key(None, "guidance; null: none", node="guider")
    fixed_frames: int = key(
        0,
        "latent frames of a clean prefix that is kept; by all samplers (upstream: by VPSDEDPMPP2MSampler alone)",
        unit="latent frames",
        range=Range(0, LATENT_FRAMES.most, LATENT_FRAMES.why),
    )
    sdedit: bool = key(False, "noise the clean prefix to the level of each step")
    verbose: bool = key(False, "print progress", without_effect="every long stage shows its progress")
    device: str = key("cuda", "where to sample", without_effect="the stage picks the device")


@dataclass(kw_only=True)
class VanillaCFGParams:
    """The same guidance scale at every step."""

    scale: float = key(REQUIRED, "x_u + scale (x_c - x_u)", range=GUIDANCE)
    dyn_thresh_config: Component | None = key(
        None, "thresholding", refused="upstream's only class does nothing; leave it out"
    )


@dataclass(kw_only=True)
class DynamicCFGParams:
    """Guidance between 1 and 1 + scale, varying with the step."""

    scale: float = key(REQUIRED, "largest guidance, less one", range=GUIDANCE)
    exp: float = key(REQUIRED, "power of the ramp", range=Range(0, 1000, "it is a power; upstream's is 5"))
    num_steps: int = key(REQUIRED, "length of the ramp; the sampler's num_steps", unit="steps", range=SAMPLING_STEPS)
    schedule: str = key(
        "timestep",
        "timestep: as upstream and diffusers, jumps about; step_index: the smooth ramp that was meant",
        choices=["timestep", "step_index"],
    )
    dyn_thresh_config: Component | None = key(
        None, "thresholding", refused="upstream's only class does nothing; leave it out"
    )


@dataclass(kw_only=True)
class IdentityGuiderParams:
    """No guidance."""
