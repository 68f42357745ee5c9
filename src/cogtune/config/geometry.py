"""Sizes that are the same in every CogVideoX model, and what its checkpoints put before the network's names."""

PIXELS_PER_LATENT = 8
"""In height and in width."""
FRAMES_PER_LATENT = 4
"""After the first frame, which has a latent of its own."""
ROTARY_BASE = 10000
"""Of the published models. diffusers computes positions with this base and has no key for another."""
NETWORK_PREFIX = "model.diffusion_model."


def latent_frames(frames: int, rate: int = FRAMES_PER_LATENT) -> int:
    """Number of latent frames of ``frames`` frames, ``rate`` frames per latent; incomplete latents are omitted."""
    return (frames - 1) // rate + 1


def pixel_frames(latents: int) -> int:
    """Number of frames of ``latents`` latent frames; the first latent frame is a single frame."""
    return FRAMES_PER_LATENT * (latents - 1) + 1


def latent_size(frames: int, height: int, width: int) -> tuple[int, int, int]:
    """(T, H, W) of the latent of a clip in pixels."""
    return latent_frames(frames), height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT
