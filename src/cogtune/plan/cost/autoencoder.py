"""Cost of the 3D VAE: parameters, FLOPs and peak bytes of encoding a clip and of decoding a latent.

Goes through the same layers as `model/vae/encoder.py` and `decoder.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cogtune.config.build import params_of
from cogtune.config.geometry import latent_size
from cogtune.config.schema.vae import Decoder3DParams, Encoder3DParams, VideoAutoencoderParams
from cogtune.work.stage_input import Node

_TEMPORAL_LEVELS = 2
_ALIVE = 3
"""Tensors of a block's size that exist at the same time in its convolutions, without gradients: the block's input, the
input of the convolution (after norm and SiLU, with causal padding), and its output."""
_DECODED_AT_ONCE = 3
"""Latent frames in the decoder's largest chunk (model/vae/autoencoder.py)."""


@dataclass(frozen=True)
class Convolution:
    """A convolution with ``taps`` x ``inputs`` x ``outputs`` weights and a bias, at ``positions`` positions; with ``taps``
    0, a norm.

    ``alive``: elements that exist at the same time while it runs. ``past``: elements of its input that the next chunk
    needs. ``workspace``: elements of cuDNN's copies of its input and output, with the channels last.
    """

    taps: int
    inputs: int
    outputs: int
    positions: float
    alive: float = 0.0
    past: float = 0.0
    workspace: float = 0.0

    @property
    def parameters(self) -> int:
        return (self.taps * self.inputs + 1) * self.outputs if self.taps else 2 * self.outputs

    @property
    def flops(self) -> float:
        return 2.0 * self.taps * self.inputs * self.outputs * self.positions


class Autoencoder:
    """A `first_stage_config` node. Sizes are in pixels and frames of the video. Raises ConfigErrors for an invalid node."""

    def __init__(self, node: Node) -> None:
        self.params = params_of(node, VideoAutoencoderParams)
        self._encoder = params_of(self.params.encoder_config, Encoder3DParams)
        self._decoder = params_of(self.params.decoder_config, Decoder3DParams)

    @property
    def encoder_parameters(self) -> int:
        return sum(one.parameters for one in self._encode(5, 16, 16))

    @property
    def decoder_parameters(self) -> int:
        return sum(one.parameters for one in self._decode(2, 2, 2))

    @property
    def parameters(self) -> int:
        return self.encoder_parameters + self.decoder_parameters

    @property
    def channels(self) -> int:
        """Channels of a latent; the cache has twice as many, for mean and log-variance."""
        return self._encoder.z_channels

    def encode_flops(self, frames: int, height: int, width: int) -> float:
        """FLOPs of one clip of 4k + 1 frames."""
        return sum(one.flops for one in self._encode(frames, height, width))

    def decode_flops(self, frames: int, height: int, width: int) -> float:
        """FLOPs of one clip of ``frames`` decoded frames."""
        return sum(one.flops for one in self._decode(*latent_size(frames, height, width)))

    def encode_bytes(
        self, frames: int, height: int, width: int, batch: int, element: int, workspace: bool = True
    ) -> float:
        """Peak of encoding ``batch`` clips in one call, with the weights of the VAE. ``element``: bytes per number;
        ``workspace``: with cuDNN's (an H200 needed 22.6 GB for 49 x 480 x 720 in bf16, 13 GB of these are tensors)."""
        size = min(self.params.encode_batch_frames or frames, frames)
        at_once = frames - size * (frames // size - 1)  # the first batch also has the remainder
        peak = max(one.alive + workspace * one.workspace for one in self._encode(at_once, height, width))
        return (batch * peak + self.parameters) * element

    def decode_bytes(self, frames: int, height: int, width: int, batch: int, element: int) -> float:
        """Peak of decoding in chunks, with the frames that are already decoded."""
        T, H, W = latent_size(frames, height, width)
        layers = list(self._decode(min(T, _DECODED_AT_ONCE), H, W))
        chunk = max(one.alive for one in layers) + sum(one.past for one in layers)
        video = 2 * 3 * frames * height * width
        return (batch * (chunk + video) + self.parameters) * element

    def _encode(self, frames: int, height: int, width: int) -> Iterator[Convolution]:
        p = self._encoder
        widths = [p.ch * factor for factor in p.ch_mult]
        T, H, W, before = frames, height, width, p.ch
        yield Convolution(27, p.in_channels, before, T * H * W)
        for level, after in enumerate(widths):
            for _ in range(p.num_res_blocks):
                yield from _block(before, after, T * H * W)
                before = after
            if level < len(widths) - 1:
                if level < _TEMPORAL_LEVELS and T > 1:
                    T = T // 2 + T % 2
                H, W = H // 2, W // 2
                yield Convolution(9, before, before, T * H * W)
        for _ in range(2):
            yield from _block(before, before, T * H * W)
        yield Convolution(0, before, before, 0)
        yield Convolution(27, before, p.z_channels * (2 if p.double_z else 1), T * H * W)

    def _decode(self, latents: int, height: int, width: int) -> Iterator[Convolution]:
        p = self._decoder
        widths, z = [p.ch * factor for factor in p.ch_mult], p.z_channels
        T, H, W, before = latents, height, width, p.ch * p.ch_mult[-1]
        yield Convolution(27, z, before, T * H * W)
        here = latents * height * width
        for _ in range(2):
            yield from _block(before, before, T * H * W, z, here, T)
        for level in reversed(range(len(widths))):
            for _ in range(p.num_res_blocks + 1):
                yield from _block(before, widths[level], T * H * W, z, here, T)
                before = widths[level]
            if level:
                T, H, W = (2 * T - 1 if level >= len(widths) - _TEMPORAL_LEVELS else T), 2 * H, 2 * W
                yield Convolution(9, before, before, T * H * W)
        yield from _norm(before, z, here, T * H * W)
        yield Convolution(27, before, p.out_ch, T * H * W)


def _block(
    inputs: int, outputs: int, positions: float, z: int = 0, latents: float = 0, frames: int = 0
) -> Iterator[Convolution]:
    """Norm, convolution, norm, convolution, and a projection if the width changes. ``z`` > 0 (decoder): norms are
    conditioned on the latent, and a chunk has ``frames`` frames."""
    past = 2 * positions / frames if frames else 0.0
    yield from _norm(inputs, z, latents, positions)
    yield Convolution(27, inputs, outputs, positions, past=past * inputs)
    yield from _norm(outputs, z, latents, positions)
    alive = ((_ALIVE - 1) * outputs + inputs) * positions
    yield Convolution(27, outputs, outputs, positions, alive, past * outputs, workspace=2 * outputs * positions)
    if inputs != outputs:
        yield Convolution(1, inputs, outputs, positions)


def _norm(channels: int, z: int, latents: float, positions: float = 0) -> Iterator[Convolution]:
    # In a conditioned norm, input, scale, shift, plain norm and output exist at the same time.
    yield Convolution(0, channels, channels, 0, alive=5 * channels * positions if z else 0.0)
    if z:
        yield Convolution(1, z, channels, latents)
        yield Convolution(1, z, channels, latents)
