"""Selects the timestep of each training sample."""

import torch
from torch import Tensor

from cogtune.config.build import build
from cogtune.config.schema.diffusion import DiscreteSamplingParams


class DiscreteSampling:
    """Uniform timesteps in 0..num_idx-1, independent or stratified over the global batch.

    Upstream stratifies over data-parallel ranks, and only for more than eight (sgm…sigma_sampling.DiscreteSampling). We
    stratify over positions in the global batch, so that results do not depend on the number of ranks.
    """

    def __init__(self, params: DiscreteSamplingParams) -> None:
        self.params = params
        self.alphas_N = build(params.discretization_config)(params.num_idx, flip=True)

    def strata(self, global_batch: int) -> int:
        """Number of equal intervals of timesteps over which a global batch is stratified; 1 means independent draws.

        `group_num` if the global batch is a multiple of it. Otherwise, or if it is 0, one interval per sample, because
        uneven groups would favour some timesteps.
        """
        if not self.params.uniform_sampling:
            return 1
        groups = self.params.group_num
        return groups if groups > 0 and global_batch % groups == 0 else global_batch

    def index(self, uniform_B: Tensor, position_B: Tensor, global_batch: int) -> Tensor:
        """Timesteps, (B,) int64, from one number in [0, 1) per sample and its position in 0..global_batch-1."""
        count = self.strata(global_batch)
        stratum_B = (position_B * count) // global_batch
        index_B = ((stratum_B + uniform_B.double()) / count * self.params.num_idx).long()
        end_B = -((stratum_B + 1) * self.params.num_idx // -count)  # rounded up; the product above may round to it
        return torch.minimum(index_B, end_B - 1)

    def alpha(self, index_B: Tensor) -> Tensor:
        """Signal scales a, (B,) float64, of these timesteps."""
        return self.alphas_N.to(index_B.device)[index_B]
