"""The registry of targets: which names a config may use, and the class of each. YAML never imports anything; the
packages that a user has listed are imported by `plugins.py`."""

import difflib
import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from cogtune.config import optimizers, plugins
from cogtune.config.errors import ConfigError
from cogtune.config.schema.common import fields_of, with_article

_SCHEMA = "cogtune.config.schema"
_SGM = "sgm.modules.diffusionmodules"


@dataclass(frozen=True)
class Entry:
    """One component. ``role``: where it can be used; ``params`` and ``target`` are "module:Class", imported when needed."""

    name: str
    role: str
    params: str
    target: str
    aliases: tuple[str, ...] = ()

    @property
    def schema(self) -> type:
        """The dataclass of its params."""
        return _load(self.params)

    def make(self, params: Any, **runtime: Any) -> Any:
        """The object itself."""
        return _load(self.target)(params, **runtime)


@dataclass(frozen=True)
class PluginEntry(Entry):
    """A plugin class, known by its dotted name only; it can be used where it has the required methods, or, for a role
    of `DERIVED`, if it derives from cogtune's own class."""

    @property
    def schema(self) -> type:
        return plugins.schema_of(plugins.load_class(self.name, self.role), self.role)

    def make(self, params: Any, **runtime: Any) -> Any:
        cls = plugins.load_class(self.name, self.role)
        if plugins.takes_params(cls):
            return cls(params, **runtime)
        return cls(**{name: getattr(params, name) for name in fields_of(type(params))}, **runtime)

    def optimizer(self, groups: list[dict[str, Any]], params: dict[str, Any]) -> Any:
        """The optimizer over parameter groups; of ``params`` (canonical) those that it takes."""
        return plugins.load_class(self.name, "optimizer")(
            groups, **{name: params[name] for name in fields_of(self.schema) if name in params}
        )


def _entry(name: str, role: str, area: str, module: str, *aliases: str, params: str = "") -> Entry:
    return Entry(name, role, f"{_SCHEMA}.{area}:{params or name + 'Params'}", f"{module}:{name}", aliases)


def _dit(name: str, role: str, module: str, upstream: str = "") -> Entry:
    return _entry(name, role, "dit", f"cogtune.model.{module}", f"dit_video_concat.{upstream or name}")


def _process(name: str, role: str, module: str, upstream: str = "", params: str = "") -> Entry:
    alias = f"{_SGM}.{upstream or module}.{name}"
    return _entry(name, role, "diffusion", f"cogtune.diffusion.{module}", alias, params=params)


def _vae(name: str, role: str, module: str, upstream: str) -> Entry:
    return _entry(name, role, "vae", f"cogtune.model.vae.{module}", f"vae_modules.{upstream}")


ENTRIES = (
    _dit("DiffusionTransformer", "network", "dit"),
    _dit("Basic3DPositionEmbedding", "positions", "positions", "Basic3DPositionEmbeddingMixin"),
    _dit("Rotary3DPositionEmbedding", "positions", "positions", "Rotary3DPositionEmbeddingMixin"),
    _dit("PatchEmbedding", "patch embedding", "embeddings", "ImagePatchEmbeddingMixin"),
    _dit("AdaLN", "modulation", "blocks", "AdaLNMixin"),
    _dit("FinalLayer", "final layer", "blocks", "FinalLayerMixin"),
    _entry("Lora", "lora", "dit", "cogtune.model.lora", "sat.model.finetune.lora2.LoraMixin"),
    _entry("GeneralConditioner", "conditioner", "text", "cogtune.model.text", "sgm.modules.GeneralConditioner",
           "sgm.modules.encoders.modules.GeneralConditioner"),
    _entry("T5Embedder", "embedder", "text", "cogtune.model.text", "sgm.modules.encoders.modules.FrozenT5Embedder"),
    _vae("VideoAutoencoder", "autoencoder", "autoencoder", "autoencoder.VideoAutoencoderInferenceWrapper"),
    _vae("Encoder3D", "encoder", "encoder", "cp_enc_dec.ContextParallelEncoder3D"),
    _vae("Decoder3D", "decoder", "decoder", "cp_enc_dec.ContextParallelDecoder3D"),
    _vae("DiagonalGaussian", "regularizer", "regularizer", "regularizers.DiagonalGaussianRegularizer"),
    Entry("Identity", "autoencoder loss", f"{_SCHEMA}.common:IdentityParams", "builtins:object", ("torch.nn.Identity",)),
    _process("DiscreteDenoiser", "denoiser", "denoiser"),
    _process("EpsWeighting", "weighting", "denoiser", "denoiser_weighting"),
    _process("VideoScaling", "scaling", "denoiser", "denoiser_scaling"),
    _process("ZeroSNRDDPMDiscretization", "discretization", "discretizer"),
    _process("VideoDiffusionLoss", "loss", "loss"),
    _process("DiscreteSampling", "timesteps", "sampling_index", "sigma_sampling"),
    _process("VPSDEDPMPP2MSampler", "sampler", "samplers", "sampling", "VideoDDIMSamplerParams"),
    _process("VPODEDPMPP2MSampler", "sampler", "samplers", "sampling", "VideoDDIMSamplerParams"),
    _process("VideoDDIMSampler", "sampler", "samplers", "sampling"),
    _process("DynamicCFG", "guider", "guiders"),
    _process("VanillaCFG", "guider", "guiders"),
    _process("IdentityGuider", "guider", "guiders"),
    _entry("SFTDataset", "dataset", "data", "cogtune.data.dataset", "data_video.SFTDataset"),
    Entry("FusedEmaAdam", "optimizer", f"{_SCHEMA}.deepspeed:FusedEmaAdamParams",
          "cogtune.train.optim:AdamWEma", ("sat.ops.FusedEmaAdam",)),
    Entry("AdamW", "optimizer", f"{_SCHEMA}.deepspeed:AdamParams", "torch.optim:AdamW", ("adamw", "torch.optim.AdamW")),
    Entry("Adam", "optimizer", f"{_SCHEMA}.deepspeed:AdamParams", "torch.optim:Adam", optimizers.MEAN_ADAM),
    Entry("AdamW8bit", "optimizer", f"{_SCHEMA}.deepspeed:AdamW8bitParams",
          "bitsandbytes.optim:AdamW8bit", ("bitsandbytes.optim.AdamW8bit",)),
)  # fmt: skip

UNAVAILABLE = {
    "data_video.VideoDataset": "webdataset shards are not read; unpack them and use data_video.SFTDataset",
    f"{_SGM}.loss.StandardDiffusionLoss": "CogVideoX is trained with VideoDiffusionLoss",
    f"{_SGM}.denoiser.Denoiser": "CogVideoX needs DiscreteDenoiser",
    **optimizers.UNSUPPORTED,
}
"""Targets that are known but not supported, with the reason."""


_TENSORS = "weights are checked, loaded and exported by the names and shapes of its tensors"
DERIVED = {
    **dict.fromkeys(("network", "positions", "patch embedding", "modulation", "final layer", "lora"), _TENSORS),
    **dict.fromkeys(("autoencoder", "encoder", "decoder"), _TENSORS),
    "loss": "training uses its timesteps and its offset noise",
    "timesteps": "training and validation use its strata and its number of timesteps",
}
"""Roles for which a plugin must derive from cogtune's class (and its params from that class's params), with the reason."""

NOT_PLUGGED = {
    "dataset": "clips are read from folders and cached by the stages scan, preprocess, latents and text, which do not create a "
    "dataset object; put your clips into videos/ and labels/, and use data_video.SFTDataset",
    "conditioner": "it only holds one text encoder; put your class under emb_models",
    "weighting": "the loss is plain v-MSE without a weighting; implement yours in your own loss "
    "(model.loss_fn_config), and remove this key",
    "autoencoder loss": "the VAE is not trained, so its loss is never computed; remove this key",
}
"""Roles that no plugin can fill, with the reason."""


@cache
def _by_name() -> dict[str, Entry]:
    return {name: entry for entry in ENTRIES for name in (entry.name, *entry.aliases)}


def names(role: str = "") -> list[str]:
    """Canonical names, of one role if given."""
    return [entry.name for entry in ENTRIES if role in ("", entry.role)]


def find(target: str, role: str = "") -> Entry:
    """The entry of a canonical name, alias, or class of a listed plugin. Raises ConfigError with the nearest valid name."""
    entry = _by_name().get(target)
    if entry is None:
        if target in UNAVAILABLE:
            raise ConfigError(f"target {target!r} is not supported: {UNAVAILABLE[target]}")
        if plugins.is_listed(target):
            return _plugged(target, role)
        raise ConfigError(f"unknown target {target!r}; {_nearest(target, role)}")
    if role and entry.role != role:
        raise ConfigError(f"target {target!r} is not {with_article(role)}; expected {' or '.join(names(role))}")
    return entry


_UPSTREAM = ("sgm", "sat", "torch", "vae_modules", "dit_video_concat", "data_video")
"""Packages that the targets of upstream's configs are in."""


def refuse_plugin(target: str, role: str) -> None:
    """Raise ConfigError, with the reason, if ``target`` is neither ours nor upstream's and no plugin can fill ``role``."""
    is_built_in = target in _by_name() or target.partition(".")[0] in _UPSTREAM
    if role in NOT_PLUGGED and (plugins.is_listed(target) or not is_built_in):
        raise ConfigError(f"target {target!r}: a plugin cannot be the {role}: {NOT_PLUGGED[role]}")


def _plugged(target: str, role: str) -> PluginEntry:
    """The entry of a plugin's class. Raises ConfigError where it cannot fill ``role``, with the reason."""
    refuse_plugin(target, role)
    cls = plugins.load_class(target, role)
    base = _base(cls)
    entry = PluginEntry(target, role or (base.role if base else ""), "", "")
    if role == "embedder" and "max_length" not in fields_of(entry.schema):
        raise ConfigError(f"target {target!r}: its params need max_length, which must equal the network's text_length")
    if role in DERIVED:
        known = " or ".join(each.target.replace(":", ".") for each in ENTRIES if each.role == role)
        if base is None or base.role != role:
            raise ConfigError(
                f"target {target!r} is not {with_article(role)}: expected a class derived from {known}: {DERIVED[role]}"
            )
        schema = entry.schema
        # The stages that encode get the keys of our own VAE, one by one (work/stages.py).
        schema_fits = schema is base.schema if role == "autoencoder" else issubclass(schema, base.schema)
        if not schema_fits:
            also = "" if role == "autoencoder" else ", or a dataclass derived from it"
            raise ConfigError(
                f"target {target!r}: expected `def __init__(self, params: {base.schema.__name__}, …)`{also}: {DERIVED[role]}"
            )
    return entry


def _base(cls: type) -> Entry | None:
    """The entry of cogtune's own class that ``cls`` derives from, the nearest one."""
    own = {entry.target: entry for entry in ENTRIES if entry.role != "autoencoder loss"}
    return next((own[name] for name in plugins.lineage(cls) if name in own), None)


def kind(target: str) -> str:
    """The canonical name of a target; for a plugin, that of the cogtune class that it derives from, else ``target``
    itself. Raises ConfigError."""
    entry = find(target)
    base = _base(plugins.load_class(target)) if isinstance(entry, PluginEntry) else entry
    return base.name if base else target


def canonical(target: str) -> str:
    """The canonical name of a target: ``sgm.….DynamicCFG`` and ``DynamicCFG`` are both ``DynamicCFG``. Raises ConfigError."""
    return find(target).name


def _nearest(target: str, role: str) -> str:
    fitting = [name for name, entry in _by_name().items() if role in ("", entry.role)]
    candidates = [name for name in fitting if ("." in name) == ("." in target)] or fitting
    near = difflib.get_close_matches(target, candidates, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    own = f"; for your own class, list {target.partition('.')[0]!r} under plugins: in config/config.yaml"
    return f"expected one of {', '.join(names(role))}{own if '.' in target else ''}"


def _load(name: str) -> Any:
    """``module:Class``; only called with names from this file."""
    module, _, member = name.partition(":")
    return getattr(importlib.import_module(module), member)
