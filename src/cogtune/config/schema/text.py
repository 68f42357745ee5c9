"""Keys of `model.conditioner_config`: the text encoder (upstream: sgm.modules)."""

from dataclasses import dataclass
from typing import Any

from cogtune.config.schema.common import REQUIRED, SHARE, TOKENS, key

Component = dict[str, Any]


@dataclass(kw_only=True)
class EmbedderKeys:
    """Keys of an entry of `emb_models` besides target and params."""

    ucg_rate: float = key(0.0, "fraction of clips trained without caption (the embedding is set to zero)", range=SHARE)
    is_trainable: bool = key(
        False, "train the text encoder", refused="T5 states are cached, so T5 cannot be trained; set false"
    )
    input_key: str = key("txt", "batch entry that is embedded", choices=["txt"])
    input_keys: list[str] | None = key(
        None, "several input_key", refused="only one text encoder is supported; use input_key: txt"
    )
    legacy_ucg_value: str | None = key(
        None,
        "caption that replaces a dropped one",
        refused="a dropped caption is a zero embedding, as in the training of the published models; remove it",
    )


@dataclass(kw_only=True)
class GeneralConditionerParams:
    """The list of text encoders: one T5."""

    emb_models: list[Component] = key(REQUIRED, "the encoders; one T5", node="embedder")
    cor_embs: list[int] = key([], "encoders dropped together", refused="only one text encoder is supported; remove it")
    cor_p: list[float] = key(
        [], "probabilities of dropping together", refused="only one text encoder is supported; remove it"
    )


@dataclass(kw_only=True)
class T5EmbedderParams:
    """T5 encoder states, padded, without attention mask. Upstream: FrozenT5Embedder."""

    model_dir: str = key(
        REQUIRED,
        "folder with tokenizer and weights in the format of transformers",
        file=True,
        folder="tokenizer and weights",
    )
    max_length: int = key(
        77,
        "maximum number of tokens; longer captions are truncated (226 for 1.0, 224 for 1.5)",
        unit="tokens",
        range=TOKENS,
    )
    freeze: bool = key(True, "freeze T5", refused="T5 states are cached, so T5 cannot be trained; set true")
    device: str = key("cuda", "device", without_effect="the text stage picks the device")
    cache_dir: str | None = key(
        None, "download folder", without_effect="nothing is downloaded; model_dir is a local folder"
    )
