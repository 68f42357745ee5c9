"""Keys of `model.conditioner_config`: the text encoder (upstream: sgm.modules)."""

from dataclasses import dataclass
from typing import Any

from cogtune.config.schema.common import REQUIRED, SHARE, TOKENS, key

Component = dict[str, Any]


@dataclass(kw_only=True)
class EmbedderKeys:
    """What an entry of `emb_models` has beside target and params."""

    ucg_rate: float = key(
        0.0, "share of samples that train without caption (the embedding is set to zero)", range=SHARE
    )
    is_trainable: bool = key(
        False, "train the text encoder", refused="T5 states are cached, so T5 stays frozen; set false"
    )
    input_key: str = key("txt", "which part of a batch is embedded", choices=["txt"])
    input_keys: list[str] | None = key(
        None, "as input_key, for several", refused="there is one text encoder; use input_key: txt"
    )
    legacy_ucg_value: str | None = key(
        None,
        "caption that stands for none",
        refused="dropping zeroes the cached embedding, as the published models were trained; leave it out",
    )


@dataclass(kw_only=True)
class GeneralConditionerParams:
    """The list of text encoders: one T5."""

    emb_models: list[Component] = key(REQUIRED, "the encoders; one T5", node="embedder")
    cor_embs: list[int] = key([], "encoders dropped together", refused="there is one encoder; leave it out")
    cor_p: list[float] = key([], "odds of dropping together", refused="there is one encoder; leave it out")


@dataclass(kw_only=True)
class T5EmbedderParams:
    """T5 encoder states, padded, without attention mask. Upstream: FrozenT5Embedder."""

    model_dir: str = key(
        REQUIRED, "folder with tokenizer and weights in transformers' format", file=True, folder="tokenizer and weights"
    )
    max_length: int = key(77, "tokens; longer captions are cut (226 for 1.0, 224 for 1.5)", unit="tokens", range=TOKENS)
    freeze: bool = key(True, "never train it", refused="T5 states are cached, so T5 stays frozen; set true")
    device: str = key("cuda", "where it runs", without_effect="the text stage picks the device")
    cache_dir: str | None = key(
        None, "download folder", without_effect="nothing is downloaded: model_dir is a folder on disk"
    )
