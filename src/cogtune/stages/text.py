"""Stage `text`: encodes every caption with T5, once, whoever it belongs to."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cogtune.config.build import build, params_of
from cogtune.data.pipeline import in_batches, on_all
from cogtune.data.rows import TextRow
from cogtune.data.store import ShardWriter
from cogtune.errors import UserError
from cogtune.runtime.devices import devices, dtype_of, set_threads
from cogtune.stages.job import Job, missing
from cogtune.work.inputs import TextInput

Encoded = tuple[str, Tensor, TextRow]
"""Caption id, context (L, D), what is said of it."""


def run(job: Job[TextInput]) -> dict[str, Any]:
    """One row for every caption: ``context`` (L, D), and how many tokens it has, more than L meaning that it was cut.

    ``truncated`` in the result counts captions that T5 did not see to their end.
    """
    captions = {row.caption_id: row.caption for row in sorted(job.manifest(), key=lambda row: row.caption_id)}
    lacking = missing(captions, job.rows().ids())
    if lacking:
        _encode(job, {caption_id: captions[caption_id] for caption_id in lacking})
    return {
        "made": len(lacking),
        "reused": len(captions) - len(lacking),
        "truncated": sum(row.truncated for _, row in TextRow.read_all(job.rows(), captions)),
    }


def _encode(job: Job[TextInput], captions: dict[str, str]) -> None:
    given = job.input
    set_threads(job.ranks * given.threads)
    with (
        job.proven("model.conditioner_config") as check,
        ShardWriter(job.items_dir(), given.flush_megabytes, given.flush_seconds) as writer,
        job.progress(len(captions), "text", "captions") as bar,
    ):
        encoders = [_encoder(given, device) for device in devices()]
        for done in on_all(in_batches(captions.items(), given.batch), encoders):
            check()  # on a CPU the weights are mapped from their file, which may be read at any time
            for caption_id, context_LD, row in done:
                if not torch.isfinite(context_LD).all():
                    raise UserError(
                        f"T5 gives NaN or infinity in {given.precision} for the caption "
                        f"{captions[caption_id][:60]!r}; set args.encoder_precision to bf16 or fp32"
                    )
                row.add(writer, caption_id, context_LD)
                bar.advance()


def _encoder(given: TextInput, device: torch.device) -> Callable[[list[tuple[str, str]]], list[Encoded]]:
    """A copy of T5 on ``device``, as a function from (id, caption) pairs to what is stored of them."""
    dtype = dtype_of(given.precision)
    embedder = build(given.conditioner).embedder(device, dtype)
    (node,) = params_of(given.conditioner).emb_models
    length = params_of({"target": node["target"], "params": node["params"]}).max_length

    def encode(batch: list[tuple[str, str]]) -> list[Encoded]:
        # Always a full batch: kernels are chosen by its size, and a caption must not depend on how many are lacking.
        padding = [""] * (given.batch - len(batch))
        context_BLD = embedder.encode([caption for _, caption in batch] + padding).cpu()
        counts = [embedder.tokens(caption) for _, caption in batch]
        return [
            (caption_id, context_LD, TextRow(count, truncated=count > length))
            for (caption_id, _), context_LD, count in zip(batch, context_BLD, counts, strict=False)
        ]

    return encode
