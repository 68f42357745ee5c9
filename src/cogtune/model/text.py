"""Encodes captions with a frozen T5 encoder.

Shapes: B captions, L tokens, D width of the T5.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from cogtune.checkpoints.text_encoder import read_text_encoder
from cogtune.config.build import build, params_of
from cogtune.config.schema.text import GeneralConditionerParams, T5EmbedderParams
from cogtune.errors import UserError


class T5Embedder:
    """T5 encoder states of padded captions (upstream sgm.modules.encoders.modules, ``FrozenT5Embedder``).

    There is no attention mask, and the states of padding are part of the result, as in training of the published models.
    Nothing is downloaded. ``params.model_dir``: tokenizer and weights in one folder, or a diffusers model folder with
    ``tokenizer/`` and ``text_encoder/``. In fp16 transformers keeps the output projections of the feed-forward blocks in
    fp32, because they overflow otherwise.
    """

    def __init__(
        self,
        params: T5EmbedderParams,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.max_length = params.max_length
        self._device = torch.device(device)
        self._tokenizer, self._model = _load(Path(params.model_dir), dtype)
        self._model.to(self._device)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Tensor:
        """``last_hidden_state``, (B, max_length, D), in the model's dtype, on its device. Longer captions are truncated."""
        tokens = self._tokenizer(
            list(captions), truncation=True, max_length=self.max_length, padding="max_length", return_tensors="pt"
        )
        return self._model(input_ids=tokens["input_ids"].to(self._device)).last_hidden_state

    def tokens(self, caption: str) -> int:
        """Number of tokens of ``caption``, including the end token; it is truncated if more than ``max_length``."""
        return len(self._tokenizer(caption)["input_ids"])


class GeneralConditioner:
    """The conditioner section of a config: one text encoder. Training applies its ``ucg_rate`` after T5."""

    def __init__(self, params: GeneralConditionerParams) -> None:
        (node,) = params.emb_models
        self._node = {"target": node["target"], "params": node["params"]}

    def embedder(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> T5Embedder:
        """Load the text encoder."""
        return build(self._node, device=device, dtype=dtype)


def token_counter(conditioner: dict[str, Any]) -> tuple[Callable[[str], int], int] | None:
    """(number of tokens of a caption, the most that are used) of a conditioner node, without its weights; None for a
    plugin's encoder. Raises UserError."""
    (node,) = params_of(conditioner).emb_models
    params = params_of({"target": node["target"], "params": node["params"]})
    if not isinstance(params, T5EmbedderParams):
        return None
    tokenizer = _tokenizer(Path(params.model_dir))
    return lambda caption: len(tokenizer(caption)["input_ids"]), params.max_length


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # else it warns of captions that are too long
    try:
        return AutoTokenizer.from_pretrained(read_text_encoder(folder).tokenizer, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise _not_loaded(folder, error) from None


def _not_loaded(folder: Path, error: Exception) -> UserError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"{folder}: cannot load T5: {first}")


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    paths = read_text_encoder(folder)
    from transformers import AutoTokenizer, T5EncoderModel
    from transformers.utils import logging

    logging.set_verbosity_error()  # else one line for each unused weight of the decoder of a full T5
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(paths.tokenizer, local_files_only=True)
        model, report = cast(
            "tuple[Any, dict[str, Any]]",
            T5EncoderModel.from_pretrained(paths.weights, local_files_only=True, dtype=dtype, output_loading_info=True),
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise _not_loaded(folder, error) from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} weights of T5 are missing, such as {missing[0]}; copy the folder again"
        )
    if len(tokenizer) > model.config.vocab_size:
        sizes = f"the tokenizer has {len(tokenizer)} tokens, the weights have {model.config.vocab_size}"
        raise UserError(f"{folder}: tokenizer and weights are from different models: {sizes}")
    return tokenizer, model.eval().requires_grad_(False)
