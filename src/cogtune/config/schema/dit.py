"""Keys of `model.network_config`: the diffusion transformer (upstream: dit_video_concat, SwissArmyTransformer)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from cogtune.config.geometry import PIXELS_PER_LATENT
from cogtune.config.schema import checkpointing
from cogtune.config.schema.common import (
    CHANNELS,
    FACTOR,
    FRAMES,
    LATENT_CHANNELS,
    PIXELS,
    REQUIRED,
    TOKENS,
    Range,
    Sparse,
    key,
)

Component = dict[str, Any]

_LAYERS = Range(1, 1000, "the published ones have 30 and 42")
_LATENT_PIXELS = Range(1, PIXELS.most // PIXELS_PER_LATENT, PIXELS.why)
_NOT_PUBLISHED = "no published CogVideoX has it; leave it out"
_LANGUAGE_MODEL = "it is a leftover of language models; upstream ignores it too"
_NO_DROPOUT = "the published models train without dropout; leave it out, or use lora_config.params.lora_dropout"


def _patch(size: int | list[int]) -> list[int]:
    return [1, size, size] if isinstance(size, int) else size


@dataclass(kw_only=True)
class TransformerArgs:
    """`transformer_args`: what upstream hands to SwissArmyTransformer."""

    checkpoint_activations: bool | str = key(
        False,
        "the same switch as args.checkpoint_activations, which decides where it has a name; true in either is full",
        choices=checkpointing.CHOICES,
        canonical=checkpointing.canonical,
    )
    max_sequence_length: int = key(
        64,
        "rows of the unused transformer.position_embeddings (rotary models have it in their files)",
        range=Range(1, 100_000_000, "it is a row for each token, and 1.5 has 82000"),
    )
    layernorm_order: str = key("pre", "place of the norms", choices=["pre", "post", "sandwich"], refused=_NOT_PUBLISHED)
    model_parallel_size: int = key(
        1,
        "ranks that share one layer",
        refused="tensor parallelism is not available; set 1, and use ZeRO to fit a model into memory",
    )
    layernorm_epsilon: float = key(1e-5, "epsilon of the block norms", refused=_NOT_PUBLISHED)
    hidden_dropout: float = key(0.0, "dropout of the branches", refused=_NO_DROPOUT)
    attention_dropout: float = key(0.0, "dropout of attention weights", refused=_NO_DROPOUT)
    drop_path: float = key(0.0, "stochastic depth", refused=_NO_DROPOUT)
    inner_hidden_size: int | None = key(
        None, "width of the MLP", refused="4 x hidden_size in every published model; leave it out"
    )
    vocab_size: int = key(1, "vocabulary", without_effect=_LANGUAGE_MODEL)
    is_decoder: bool = key(False, "causal attention", without_effect=_LANGUAGE_MODEL)
    skip_init: bool = key(
        False, "leave weights uninitialised", without_effect="weights are loaded, or initialised from the seed"
    )
    use_gpu_initialization: bool = key(
        False, "initialise on the GPU", without_effect="weights are loaded, or initialised from the seed"
    )


@dataclass(kw_only=True)
class Modules(Sparse):
    """`modules`: the exchangeable parts of the transformer."""

    pos_embed_config: Component = key(REQUIRED, "positions", node="positions")
    patch_embed_config: Component = key(REQUIRED, "patches and text to tokens", node="patch embedding")
    adaln_layer_config: Component = key(REQUIRED, "modulation by the timestep", node="modulation")
    final_layer_config: Component = key(REQUIRED, "tokens to patches", node="final layer")
    lora_config: Component | None = key(None, "adapters; with them `not_trainable_prefixes: [all]`", node="lora")


@dataclass(kw_only=True)
class DiffusionTransformerParams:
    """The network."""

    num_layers: int = key(REQUIRED, "blocks", range=_LAYERS)
    hidden_size: int = key(REQUIRED, "width", range=CHANNELS)
    num_attention_heads: int = key(
        REQUIRED,
        "heads; the published ones have 64 channels",
        range=Range(1, 1024, "the published ones have 30 and 48"),
    )
    in_channels: int = key(
        REQUIRED,
        "latent channels, plus as many for the image of an image-to-video model",
        range=Range(1, 2048, "it is twice the latent channels, and the published VAEs have 16"),
    )
    out_channels: int = key(REQUIRED, "latent channels", range=LATENT_CHANNELS)
    patch_size: int | list[int] = key(
        REQUIRED,
        "size of a patch; a plain 2 means [1, 2, 2]",
        items="latent frames, rows, columns",
        canonical=_patch,
        range=Range(1, 64, "the published ones have 1 and 2"),
    )
    num_frames: int = key(REQUIRED, "pixel frames that the positions are made for", unit="frames", range=FRAMES)
    time_compressed_rate: int = key(
        REQUIRED,
        "pixel frames to one latent frame",
        unit="frames",
        range=Range(1, 64, "the published VAEs compress 4 frames to one"),
    )
    latent_width: int = key(
        REQUIRED, "columns that the positions are made for", unit="latent pixels (8 pixels)", range=_LATENT_PIXELS
    )
    latent_height: int = key(
        REQUIRED, "rows that the positions are made for", unit="latent pixels (8 pixels)", range=_LATENT_PIXELS
    )
    modules: dict[str, Any] = key(REQUIRED, "the exchangeable parts", keys=Modules)
    transformer_args: TransformerArgs = key(TransformerArgs, "what upstream hands to SwissArmyTransformer")
    time_embed_dim: int | None = key(None, "width of the timestep embedding; null: hidden_size", range=CHANNELS)
    ofs_embed_dim: int | None = key(
        None, "width of the `ofs` embedding (1.5 image-to-video: 512); null: none", range=CHANNELS
    )
    elementwise_affine: bool = key(True, "norms have weight and bias")
    height_interpolation: float = key(
        1.0, "row positions are divided by it, unless pos_embed_config says otherwise", range=FACTOR
    )
    width_interpolation: float = key(
        1.0, "column positions are divided by it, unless pos_embed_config says otherwise", range=FACTOR
    )
    time_interpolation: float = key(
        1.0, "frame positions are divided by it, unless pos_embed_config says otherwise", range=FACTOR
    )
    input_time: str = key("adaln", "how the timestep enters", choices=["adaln"])
    num_classes: int | None = key(None, "class conditioning", refused=_NOT_PUBLISHED)
    use_SwiGLU: bool = key(False, "gated MLP", refused=_NOT_PUBLISHED)
    use_RMSNorm: bool = key(False, "RMSNorm instead of LayerNorm", refused=_NOT_PUBLISHED)
    adm_in_channels: int | None = key(
        None, "width of class conditioning", without_effect="there is no class conditioning; upstream ignores it too"
    )
    parallel_output: bool = key(
        True, "leave the output split over ranks", without_effect="there is no tensor parallelism here"
    )
    dtype: str = key(
        "fp32", "precision", without_effect="the deepspeed section (training) and args.bf16 (sampling) decide"
    )


class PositionParams:
    """What every kind of positions says of itself."""

    rotates: ClassVar[bool]
    """Queries and keys are rotated. Checkpoints of such a network hold a table beside it that no forward pass reads."""
    text_length: int

    @property
    def table(self) -> str | None:
        """What is added to the tokens: a `sine-cosine` table, which is computed, a `learned` one, or nothing."""
        raise NotImplementedError

    @property
    def adds_table(self) -> bool:
        """Whether a table is added; it holds for one height and width, and for so many frames at most."""
        return self.table is not None

    def parameters(self, video_tokens: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the module's tensors, for a grid of so many tokens."""
        return {"pos_embedding": (1, self.text_length + video_tokens, hidden_size)} if self.adds_table else {}


@dataclass(kw_only=True)
class Basic3DPositionEmbeddingParams(PositionParams):
    """Sine-cosine table over frames, columns, rows; fixed grid (CogVideoX-2B)."""

    rotates = False

    text_length: int = key(
        0, "text tokens in front; the T5's max_length", unit="tokens", range=Range(0, TOKENS.most, TOKENS.why)
    )
    height_interpolation: float | None = key(None, "row positions are divided by it; null: the network's", range=FACTOR)
    width_interpolation: float | None = key(
        None, "column positions are divided by it; null: the network's", range=FACTOR
    )
    time_interpolation: float | None = key(None, "frame positions are divided by it; null: the network's", range=FACTOR)

    @property
    def table(self) -> str:
        return "sine-cosine"


@dataclass(kw_only=True)
class Rotary3DPositionEmbeddingParams(PositionParams):
    """Rotary positions over frames, rows, columns; any grid up to the configured one."""

    rotates = True

    hidden_size_head: int = key(REQUIRED, "channels of a head", range=Range(1, 1024, "the published ones have 64"))
    text_length: int = key(
        REQUIRED, "text tokens in front; the T5's max_length", unit="tokens", range=Range(0, TOKENS.most, TOKENS.why)
    )
    theta: float = key(
        10000,
        "base of the frequencies",
        range=Range(1, 1_000_000_000, "it is the base of a power; every published model has 10000"),
    )
    learnable_pos_embed: bool = key(False, "a learned table is added as well; fixed grid (1.0 image-to-video)")
    rot_v: bool = key(False, "rotate values too", refused=_NOT_PUBLISHED)
    height_interpolation: float = key(1.0, "divides rows", without_effect="upstream's rotary positions ignore it too")
    width_interpolation: float = key(1.0, "divides columns", without_effect="upstream's rotary positions ignore it too")
    time_interpolation: float = key(1.0, "divides frames", without_effect="upstream's rotary positions ignore it too")

    @property
    def table(self) -> str | None:
        return "learned" if self.learnable_pos_embed else None


@dataclass(kw_only=True)
class PatchEmbeddingParams:
    """Latent patches and T5 states to tokens."""

    text_hidden_size: int = key(REQUIRED, "width of the T5 (4096 for t5-v1_1-xxl)", range=CHANNELS)


@dataclass(kw_only=True)
class AdaLNParams:
    """Modulation of every block by the timestep."""

    qk_ln: bool = key(True, "LayerNorm on queries and keys")


@dataclass(kw_only=True)
class FinalLayerParams:
    """Tokens back to patches."""


@dataclass(kw_only=True)
class LoraParams:
    """Low-rank adapters on query_key_value and dense of the attention."""

    r: int = key(
        REQUIRED, "rank: 128 or 256 upstream", range=Range(1, 65_536, "a rank beyond the width of a layer adds nothing")
    )
    lora_alpha: float = key(
        1,
        "the adapters are scaled by lora_alpha / r; upstream's 1 gives 1/128 at r 128",
        range=Range(0.0001, 1_000_000, "0 switches the adapters off"),
    )
    lora_dropout: float = key(
        0.0, "dropout on the adapters' input", unit="probability", range=Range(0, 0.99, "1 drops everything")
    )
    layer_range: list[int] | None = key(
        None, "layers that get adapters; null: all", range=Range(0, _LAYERS.most - 1, _LAYERS.why)
    )
    qlora: bool = key(False, "quantised base weights", refused="there is no 4-bit base here; set false")
    cross_attention: bool = key(True, "adapters on cross-attention", without_effect="the model has no cross-attention")
