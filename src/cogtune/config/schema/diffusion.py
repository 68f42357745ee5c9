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
_BETA = Range(1e-8, 0.999, "0 means no noise, and 1 means no signal")
_TABLE = "the table of signal scales is the one of upstream's classes"
_APPEND = {"refused": f"{_TABLE}; remove it"}


@dataclass(kw_only=True)
class ZeroSNRDDPMDiscretizationParams:
    """The noise schedule: sqrt-linear betas, SNR shift, rescaled to zero terminal SNR."""

    linear_start: float = key(0.00085, "first beta", range=_BETA)
    linear_end: float = key(0.0120, "last beta", range=_BETA)
    num_timesteps: int = key(1000, "training timesteps", range=TIMESTEPS)
    shift_scale: float = key(1.0, "divisor of the SNR: 3.0 for CogVideoX-2B, 1.0 for the others", range=FACTOR)
    keep_start: bool = key(False, "adjust linear_start so that the shift does not change the first step")
    post_shift: bool = key(False, "shift after the rescaling to zero SNR instead of before")


@dataclass(kw_only=True)
class EpsWeightingParams:
    """Weight 1/sigma^2. Upstream never uses it: the loss is plain v-MSE."""


@dataclass(kw_only=True)
class VideoScalingParams:
    """v-prediction: c_skip = a, c_out = -sqrt(1 - a^2)."""


@dataclass(kw_only=True)
class DiscreteDenoiserParams:
    """Convert the network's v to the clean latent, at the timesteps of the training table."""

    scaling_config: Component = key({"target": "VideoScaling"}, "what the network predicts", node="scaling")
    weighting_config: Component | None = key(
        None,
        "weight of the loss",
        node="weighting",
        without_effect="the loss is plain v-MSE; upstream ignores it too",
    )
    discretization_config: Component = key(_DISCRETIZATION, "the noise schedule", node="discretization")
    num_idx: int = key(1000, "timesteps", range=TIMESTEPS)
    quantize_c_noise: bool = key(
        True,
        "round the timestep to the table; must be false for VideoScaling, whose timestep is already an index",
        choices=[False, True],
    )
    do_append_zero: bool = key(False, "append a zero to the table", **_APPEND)
    flip: bool = key(True, "reverse the table", **_APPEND)


@dataclass(kw_only=True)
class DiscreteSamplingParams:
    """Draw training timesteps: uniform, or stratified over the global batch."""

    discretization_config: Component = key(_DISCRETIZATION, "the noise schedule", node="discretization")
    num_idx: int = key(1000, "timesteps", range=TIMESTEPS)
    uniform_sampling: bool = key(False, "stratify: each clip of the global batch draws from its own range of timesteps")
    group_num: int = key(
        0,
        "number of ranges with uniform_sampling; 0: one per clip of the global batch",
        range=Range(0, 10_000, "there are at most 10000 timesteps"),
    )
    do_append_zero: bool = key(False, "append a zero to the table", **_APPEND)
    flip: bool = key(True, "reverse the table", **_APPEND)


@dataclass(kw_only=True)
class VideoDiffusionLossParams:
    """The training loss: squared error of v, in fp32."""

    sigma_sampler_config: Component = key(REQUIRED, "draws the training timesteps", node="timesteps")
    type: str = key("l2", "error norm", choices=["l2", "l1"])
    offset_noise_level: float = key(
        0.0,
        "scale of one extra normal draw per sample, added to all elements",
        range=Range(0, 10, "it is added to noise of standard deviation 1; 0.1 is usual"),
    )
    min_snr_value: float | None = key(
        None,
        "maximum of the min-SNR weight; null: no weight",
        range=Range(0.001, 1_000_000, "0 makes every loss 0; 5 is usual"),
    )
    fixed_frames: int = key(
        0,
        "frames of the clean prefix",
        unit="latent frames",
        without_effect="upstream ignores it too",
        request="all frames are noised in training",
    )
    block_scale: float | None = key(
        None,
        "scale of block noise",
        without_effect="upstream ignores it too",
        request="the noise is plain Gaussian",
    )
    block_size: int | None = key(
        None,
        "size of block noise",
        without_effect="upstream ignores it too",
        request="the noise is plain Gaussian",
    )
    batch2model_keys: str | list[str] | None = key(
        None, "batch entries for the network", without_effect="the inputs of the network are fixed"
    )


@dataclass(kw_only=True)
class VideoDDIMSamplerParams:
    """Sample a clean latent from noise. The same keys for DDIM and both DPM-Solver++ samplers."""

    discretization_config: Component = key(_DISCRETIZATION, "the noise schedule", node="discretization")
    num_steps: int = key(
        REQUIRED, "sampling steps (with guidance, two network evaluations each)", unit="steps", range=SAMPLING_STEPS
    )
    guider_config: Component | None = key(None, "guidance; null: none", node="guider")
    fixed_frames: int = key(
        0,
        "latent frames of a clean prefix to keep; supported by all samplers (upstream: VPSDEDPMPP2MSampler only)",
        unit="latent frames",
        range=Range(0, LATENT_FRAMES.maximum, LATENT_FRAMES.why),
    )
    sdedit: bool = key(False, "add noise to the clean prefix at each step's level")
    verbose: bool = key(False, "print progress", without_effect="every long stage prints its progress")
    device: str = key("cuda", "device", without_effect="the stage picks the device")


@dataclass(kw_only=True)
class VanillaCFGParams:
    """The same guidance scale at every step."""

    scale: float = key(REQUIRED, "x_u + scale (x_c - x_u)", range=GUIDANCE)
    dyn_thresh_config: Component | None = key(
        None, "thresholding", refused="upstream's only class does nothing; remove it"
    )


@dataclass(kw_only=True)
class DynamicCFGParams:
    """Guidance between 1 and 1 + scale, varying with the step."""

    scale: float = key(REQUIRED, "maximum guidance minus 1", range=GUIDANCE)
    exp: float = key(REQUIRED, "exponent of the ramp", range=Range(0, 1000, "it is an exponent; upstream uses 5"))
    num_steps: int = key(
        REQUIRED, "length of the ramp; must equal the sampler's num_steps", unit="steps", range=SAMPLING_STEPS
    )
    schedule: str = key(
        "timestep",
        "timestep: as in upstream and diffusers, not monotonic; step_index: the smooth ramp that upstream intended",
        choices=["timestep", "step_index"],
    )
    dyn_thresh_config: Component | None = key(
        None, "thresholding", refused="upstream's only class does nothing; remove it"
    )


@dataclass(kw_only=True)
class IdentityGuiderParams:
    """No guidance."""
