"""Configuration nodes in upstream's spelling, as the tests of this folder need them."""

from typing import Any

PREFIX = "sgm.modules.diffusionmodules"


def discretization(**params: Any) -> dict[str, Any]:
    return {"target": f"{PREFIX}.discretizer.ZeroSNRDDPMDiscretization", "params": params}


def denoiser(**params: Any) -> dict[str, Any]:
    weighting = {"target": f"{PREFIX}.denoiser_weighting.EpsWeighting"}
    scaling = {"target": f"{PREFIX}.denoiser_scaling.VideoScaling"}
    common = {"num_idx": 1000, "quantize_c_noise": False, "discretization_config": discretization()}
    common |= {"weighting_config": weighting, "scaling_config": scaling}
    return {"target": f"{PREFIX}.denoiser.DiscreteDenoiser", "params": common | params}


def sampling_index(**params: Any) -> dict[str, Any]:
    common = {"num_idx": 1000, "discretization_config": discretization()}
    return {"target": f"{PREFIX}.sigma_sampling.DiscreteSampling", "params": common | params}


def loss(**params: Any) -> dict[str, Any]:
    return {
        "target": f"{PREFIX}.loss.VideoDiffusionLoss",
        "params": {"sigma_sampler_config": sampling_index()} | params,
    }


def guider(kind: str, **params: Any) -> dict[str, Any]:
    return {"target": f"{PREFIX}.guiders.{kind}", "params": params}


def sampler(kind: str, num_steps: int = 10, **params: Any) -> dict[str, Any]:
    common = {"num_steps": num_steps, "discretization_config": discretization()}
    return {"target": f"{PREFIX}.sampling.{kind}", "params": common | params}
