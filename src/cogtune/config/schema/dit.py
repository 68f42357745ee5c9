"""Keys of `model.network_config`: the diffusion transformer (upstream: dit_video_concat, SwissArmyTransformer)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from cogtune.config.geometry import PIXELS_PER_LATENT, ROTARY_BASE
from cogtune.config.schema import checkpointing
from cogtune.config.schema.common import (
    CHANNELS,
    FACTOR,
    FRAMES,
    LATENT_CHANNELS,
    PIXELS,
    REQUIRED,
    TOKENS,
    OmitNulls,
    Range,
    key,
)
from cogtune.errors import UserError

Component = dict[str, Any]

_LAYERS = Range(1, 1000, "published models have 30 or 42")
_LATENT_PIXELS = Range(1, PIXELS.maximum // PIXELS_PER_LATENT, PIXELS.why)
_NOT_PUBLISHED = "no published CogVideoX model uses it; remove it"
_LANGUAGE_MODEL = "it is for language models; upstream ignores it too"
_NO_DROPOUT = "the published models were trained without dropout; remove it, or use lora_config.params.lora_dropout"


def _patch(size: int | list[int]) -> list[int]:
    return [1, size, size] if isinstance(size, int) else size


@dataclass(kw_only=True)
class TransformerArgs:
    """`transformer_args`: arguments for upstream's SwissArmyTransformer."""

    checkpoint_activations: bool | str = key(
        False,
        "same as args.checkpoint_activations, whose policy name takes precedence; true in either key means full",
        choices=checkpointing.CHOICES,
        canonical=checkpointing.canonical,
    )
    max_sequence_length: int = key(
        64,
        "rows of transformer.position_embeddings, which rotary models store but do not use",
        range=Range(1, 100_000_000, "there is one row per token, and 1.5 has 82000"),
    )
    layernorm_order: str = key(
        "pre", "position of the norms", choices=["pre", "post", "sandwich"], refused=_NOT_PUBLISHED
    )
    model_parallel_size: int = key(
        1,
        "tensor-parallel ranks per layer",
        refused="tensor parallelism is not supported; set 1, and use ZeRO to reduce memory",
    )
    layernorm_epsilon: float = key(1e-5, "epsilon of the block norms", refused=_NOT_PUBLISHED)
    hidden_dropout: float = key(0.0, "dropout of the residual branches", refused=_NO_DROPOUT)
    attention_dropout: float = key(0.0, "dropout of attention weights", refused=_NO_DROPOUT)
    drop_path: float = key(0.0, "stochastic depth", refused=_NO_DROPOUT)
    inner_hidden_size: int | None = key(
        None, "width of the MLP", refused="it is 4 x hidden_size in every published model; remove it"
    )
    vocab_size: int = key(1, "vocabulary", without_effect=_LANGUAGE_MODEL)
    is_decoder: bool = key(False, "causal attention", without_effect=_LANGUAGE_MODEL)
    skip_init: bool = key(
        False, "do not initialise weights", without_effect="weights are loaded, or initialised from the seed"
    )
    use_gpu_initialization: bool = key(
        False, "initialise on the GPU", without_effect="weights are loaded, or initialised from the seed"
    )


@dataclass(kw_only=True)
class Modules(OmitNulls):
    """`modules`: the configurable parts of the transformer."""

    pos_embed_config: Component = key(REQUIRED, "position embedding", node="positions")
    patch_embed_config: Component = key(REQUIRED, "converts patches and text to tokens", node="patch embedding")
    adaln_layer_config: Component = key(REQUIRED, "modulation by the timestep", node="modulation")
    final_layer_config: Component = key(REQUIRED, "converts tokens to patches", node="final layer")
    lora_config: Component | None = key(
        None, "LoRA adapters; use them with `not_trainable_prefixes: [all]`", node="lora"
    )


@dataclass(kw_only=True)
class DiffusionTransformerParams:
    """The diffusion transformer."""

    num_layers: int = key(REQUIRED, "number of blocks", range=_LAYERS)
    hidden_size: int = key(REQUIRED, "channels of a token", range=CHANNELS)
    num_attention_heads: int = key(
        REQUIRED,
        "attention heads; published models have 64 channels per head",
        range=Range(1, 1024, "published models have 30 or 48"),
    )
    in_channels: int = key(
        REQUIRED,
        "latent channels; twice as many for an image-to-video model",
        range=Range(1, 2048, "it is twice the latent channels, and the published VAEs have 16"),
    )
    out_channels: int = key(REQUIRED, "latent channels", range=LATENT_CHANNELS)
    patch_size: int | list[int] = key(
        REQUIRED,
        "size of a patch; 2 means [1, 2, 2]",
        items="latent frames, rows, columns",
        canonical=_patch,
        range=Range(1, 64, "published models have 1 or 2"),
    )
    num_frames: int = key(REQUIRED, "pixel frames covered by the positions", unit="frames", range=FRAMES)
    time_compressed_rate: int = key(
        REQUIRED,
        "pixel frames per latent frame",
        unit="frames",
        range=Range(1, 64, "the published VAEs compress 4 frames into one"),
    )
    latent_width: int = key(
        REQUIRED, "columns covered by the positions", unit="latent pixels (8 pixels)", range=_LATENT_PIXELS
    )
    latent_height: int = key(
        REQUIRED, "rows covered by the positions", unit="latent pixels (8 pixels)", range=_LATENT_PIXELS
    )
    modules: dict[str, Any] = key(REQUIRED, "configurable parts", keys=Modules)
    transformer_args: TransformerArgs = key(TransformerArgs, "arguments for upstream's SwissArmyTransformer")
    time_embed_dim: int | None = key(None, "width of the timestep embedding; null: hidden_size", range=CHANNELS)
    ofs_embed_dim: int | None = key(
        None, "width of the `ofs` embedding (1.5 image-to-video: 512); null: none", range=CHANNELS
    )
    elementwise_affine: bool = key(True, "norms have weight and bias")
    height_interpolation: float = key(
        1.0, "divisor of row positions, unless pos_embed_config sets its own", range=FACTOR
    )
    width_interpolation: float = key(
        1.0, "divisor of column positions, unless pos_embed_config sets its own", range=FACTOR
    )
    time_interpolation: float = key(
        1.0, "divisor of frame positions, unless pos_embed_config sets its own", range=FACTOR
    )
    input_time: str = key("adaln", "how the network uses the timestep", choices=["adaln"])
    num_classes: int | None = key(None, "class conditioning", refused=_NOT_PUBLISHED)
    use_SwiGLU: bool = key(False, "gated MLP", refused=_NOT_PUBLISHED)
    use_RMSNorm: bool = key(False, "RMSNorm instead of LayerNorm", refused=_NOT_PUBLISHED)
    adm_in_channels: int | None = key(
        None, "width of class conditioning", without_effect="there is no class conditioning; upstream ignores it too"
    )
    parallel_output: bool = key(
        True, "keep the output split over ranks", without_effect="tensor parallelism is not supported"
    )
    dtype: str = key(
        "fp32", "precision", without_effect="the deepspeed section (training) and args.bf16 (sampling) set it"
    )


Factors = tuple[float, float, float]
"""Frames, rows and columns: what positions are divided by."""


@dataclass(frozen=True)
class PositionTensor:
    """A tensor of a position embedding. ``name``: below `mixins.pos_embed`."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class DiffusersPositions:
    """The entries of diffusers' config.json about positions; scales that are None are left out."""

    use_rotary_positional_embeddings: bool
    use_learned_positional_embeddings: bool
    spatial_interpolation_scale: float | None = None
    temporal_interpolation_scale: float | None = None

    def entries(self) -> dict[str, bool | float]:
        """For config.json."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class PositionParams(ABC):
    """Properties of a kind of position embedding: all that the other code knows of it."""

    rotates: ClassVar[bool]
    """Queries and keys are rotated. Checkpoints of such networks also contain a table that is never used."""
    computed: ClassVar[bool] = False
    """The table is computed and never trained; formats with learned weights only omit it."""
    text_length: int

    @property
    @abstractmethod
    def table(self) -> str | None:
        """The kind of table that is added to the tokens, for messages: `sine-cosine`, `learned`; None: no table."""

    @property
    def adds_table(self) -> bool:
        """Whether a table is added; it fits one height and width, and a maximum number of frames."""
        return self.table is not None

    def table_shape(self, video_tokens: int, hidden_size: int) -> tuple[int, int, int]:
        """Shape of the added table, for a grid of ``video_tokens`` tokens."""
        return 1, self.text_length + video_tokens, hidden_size

    def parameters(self, video_tokens: int, hidden_size: int) -> tuple[PositionTensor, ...]:
        """The module's tensors, for a grid of ``video_tokens`` tokens."""
        shape = self.table_shape(video_tokens, hidden_size)
        return (PositionTensor("pos_embedding", shape),) if self.adds_table else ()

    def size_problems(self, hidden_size: int, head_size: int) -> Iterator[tuple[str, str]]:
        """(key, message) for each size that does not fit these positions. ``key``: of the network, or, with
        `pos_embed_config.params.` in front, of these params."""
        yield from ()

    def in_diffusers(self, network: Factors) -> DiffusersPositions:
        """Entries of diffusers' config.json. ``network``: the network's own interpolation factors.

        Raises: UserError, with the reason, if diffusers does not compute these positions. Exports are in SAT's format then.
        """
        raise UserError("diffusers does not have these positions")


@dataclass(kw_only=True)
class Basic3DPositionEmbeddingParams(PositionParams):
    """Sine-cosine table over frames, columns and rows, for one grid size (CogVideoX-2B)."""

    rotates = False
    computed = True

    text_length: int = key(
        0,
        "text tokens before the video tokens; must equal the text encoder's max_length",
        unit="tokens",
        range=Range(0, TOKENS.maximum, TOKENS.why),
    )
    height_interpolation: float | None = key(None, "divisor of row positions; null: the network's", range=FACTOR)
    width_interpolation: float | None = key(None, "divisor of column positions; null: the network's", range=FACTOR)
    time_interpolation: float | None = key(None, "divisor of frame positions; null: the network's", range=FACTOR)

    @property
    def table(self) -> str:
        return "sine-cosine"

    def interpolation(self, network: Factors) -> Factors:
        """What positions are divided by: the module's own factors, else the network's."""
        own = (self.time_interpolation, self.height_interpolation, self.width_interpolation)
        t, h, w = (shared if factor is None else factor for factor, shared in zip(own, network, strict=True))
        return t, h, w

    def size_problems(self, hidden_size: int, head_size: int) -> Iterator[tuple[str, str]]:
        if hidden_size % 16:
            yield "hidden_size", f"{hidden_size}; sine-cosine positions need a multiple of 16"

    def in_diffusers(self, network: Factors) -> DiffusersPositions:
        t, h, w = self.interpolation(network)
        if h != w:
            raise UserError(
                f"height_interpolation {h} and width_interpolation {w} differ; diffusers supports one value for both"
            )
        return DiffusersPositions(
            use_rotary_positional_embeddings=False,
            use_learned_positional_embeddings=False,
            spatial_interpolation_scale=h,
            temporal_interpolation_scale=t,
        )


@dataclass(kw_only=True)
class Rotary3DPositionEmbeddingParams(PositionParams):
    """Rotary positions over frames, rows and columns, for grids up to the configured size."""

    rotates = True

    hidden_size_head: int = key(REQUIRED, "channels of a head", range=Range(1, 1024, "published models have 64"))
    text_length: int = key(
        REQUIRED,
        "text tokens before the video tokens; must equal the text encoder's max_length",
        unit="tokens",
        range=Range(0, TOKENS.maximum, TOKENS.why),
    )
    theta: float = key(
        10000,
        "base of the frequencies",
        range=Range(1, 1_000_000_000, "it is the base of a power; published models have 10000"),
    )
    learnable_pos_embed: bool = key(False, "add a learned table, for one grid size (1.0 image-to-video)")
    rot_v: bool = key(False, "rotate values too", refused=_NOT_PUBLISHED)
    height_interpolation: float = key(
        1.0, "divisor of row positions", without_effect="upstream ignores it too for rotary positions"
    )
    width_interpolation: float = key(
        1.0, "divisor of column positions", without_effect="upstream ignores it too for rotary positions"
    )
    time_interpolation: float = key(
        1.0, "divisor of frame positions", without_effect="upstream ignores it too for rotary positions"
    )

    @property
    def table(self) -> str | None:
        return "learned" if self.learnable_pos_embed else None

    def size_problems(self, hidden_size: int, head_size: int) -> Iterator[tuple[str, str]]:
        name, size = "pos_embed_config.params.hidden_size_head", self.hidden_size_head
        if size != head_size:
            yield name, f"{size}; expected hidden_size / num_attention_heads, {head_size}"
        if size % 16:
            yield name, f"{size}; rotary positions need a multiple of 16"

    def in_diffusers(self, network: Factors) -> DiffusersPositions:
        if self.theta != ROTARY_BASE:
            raise UserError(f"pos_embed_config.params.theta: {self.theta:g}; diffusers always uses {ROTARY_BASE}")
        return DiffusersPositions(
            use_rotary_positional_embeddings=True, use_learned_positional_embeddings=self.learnable_pos_embed
        )


@dataclass(kw_only=True)
class PatchEmbeddingParams:
    """Convert latent patches and T5 states to tokens."""

    text_hidden_size: int = key(REQUIRED, "width of the T5 (4096 for t5-v1_1-xxl)", range=CHANNELS)


@dataclass(kw_only=True)
class AdaLNParams:
    """Modulation of every block by the timestep."""

    qk_ln: bool = key(True, "LayerNorm on queries and keys")


@dataclass(kw_only=True)
class FinalLayerParams:
    """Convert tokens back to patches."""


@dataclass(kw_only=True)
class LoraParams:
    """Low-rank adapters on query_key_value and dense of the attention."""

    r: int = key(
        REQUIRED, "rank: 128 or 256 upstream", range=Range(1, 65_536, "a rank above the layer's width adds nothing")
    )
    lora_alpha: float = key(
        1,
        "adapters are scaled by lora_alpha / r; upstream's 1 gives 1/128 at r 128",
        range=Range(0.0001, 1_000_000, "0 disables the adapters"),
    )
    lora_dropout: float = key(
        0.0, "dropout on the adapters' input", unit="probability", range=Range(0, 0.99, "1 drops everything")
    )
    layer_range: list[int] | None = key(
        None, "layers that get adapters; null: all", range=Range(0, _LAYERS.maximum - 1, _LAYERS.why)
    )
    qlora: bool = key(False, "quantised base weights", refused="4-bit base weights are not supported; set false")
    cross_attention: bool = key(True, "adapters on cross-attention", without_effect="the model has no cross-attention")
