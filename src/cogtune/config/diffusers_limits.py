"""Networks that diffusers cannot compute. They are trained and sampled as any other, and exported in SAT's formats only."""

from cogtune.config.build import params_of
from cogtune.config.schema.dit import DiffusersPositions, DiffusionTransformerParams, PositionParams
from cogtune.errors import UserError

SAT_FORMATS = ("sat", "merged", "sat_lora")
"""Export formats that diffusers does not read; all others are for diffusers' network."""


def refusal(network: DiffusionTransformerParams) -> str | None:
    """Why diffusers' CogVideoXTransformer3DModel cannot compute a network; None if it can."""
    size = network.patch_size
    if isinstance(size, list) and size[1] != size[2]:
        return f"patch_size {size}: diffusers supports square patches only"
    try:
        positions_in_diffusers(network)
    except UserError as error:
        return str(error)
    return None


def positions_in_diffusers(network: DiffusionTransformerParams) -> DiffusersPositions:
    """The positions' entries of diffusers' config.json. Raises UserError if diffusers does not compute them."""
    pos = params_of(network.modules["pos_embed_config"], PositionParams)
    return pos.in_diffusers((network.time_interpolation, network.height_interpolation, network.width_interpolation))
