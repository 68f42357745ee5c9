"""Captions to what the transformer attends to: the states of a frozen T5 encoder.

Shapes: B captions, L tokens, D width of the T5.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from cogtune.checkpoints.text_encoder import read_text_encoder
from cogtune.config.build import build
from cogtune.config.schema.text import GeneralConditionerParams, T5EmbedderParams
from cogtune.errors import UserError


class T5Embedder:
    """T5 encoder states of padded captions (upstream sgm.modules.encoders.modules, ``FrozenT5Embedder``).

    Padding is attended to and its states are kept: the published models were trained so. Nothing is downloaded.
    ``params.model_dir``: tokenizer and weights in one folder, or a diffusers model folder with ``tokenizer/`` and
    ``text_encoder/``. In fp16 the output projections of the feed-forward blocks stay in fp32, as transformers keeps
    them: they overflow otherwise.
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
        """``last_hidden_state``, (B, max_length, D), in the model's dtype, on its device. Longer captions are cut."""
        tokens = self._tokenizer(
            list(captions), truncation=True, max_length=self.max_length, padding="max_length", return_tensors="pt"
        )
        return self._model(input_ids=tokens["input_ids"].to(self._device)).last_hidden_state

    def tokens(self, caption: str) -> int:
        """How many tokens ``caption`` has, the end token included; more than ``max_length`` means that it is cut."""
        return len(self._tokenizer(caption)["input_ids"])


class GeneralConditioner:
    """The conditioner section of a config: one text encoder. What its ``ucg_rate`` drops, training drops after T5."""

    def __init__(self, params: GeneralConditionerParams) -> None:
        (node,) = params.emb_models
        self._node = {"target": node["target"], "params": node["params"]}

    def embedder(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> T5Embedder:
        """Load the text encoder."""
        return build(self._node, device=device, dtype=dtype)


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    named = read_text_encoder(folder)
    from transformers import AutoTokenizer, T5EncoderModel
    from transformers.utils import logging

    logging.set_verbosity_error()  # a full T5 has a decoder, and every unused weight of it would get a line
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(named.tokenizer, local_files_only=True)
        model, report = cast(
            "tuple[Any, dict[str, Any]]",
            T5EncoderModel.from_pretrained(named.weights, local_files_only=True, dtype=dtype, output_loading_info=True),
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder}: T5 cannot be loaded: {first}") from None
    lacking = sorted(report["missing_keys"])
    if lacking:
        raise UserError(f"{folder}: {len(lacking)} weights of T5 are missing, such as {lacking[0]}; copy it again")
    if len(tokenizer) > model.config.vocab_size:
        sizes = f"the tokenizer has {len(tokenizer)} tokens, the weights have {model.config.vocab_size}"
        raise UserError(f"{folder}: tokenizer and weights are not of one model: {sizes}")
    return tokenizer, model.eval().requires_grad_(False)
