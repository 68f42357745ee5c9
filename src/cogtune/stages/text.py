"""Stage `text`: encodes every caption with T5, once, whoever it belongs to."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cogtune.config.build import build
from cogtune.data.pipeline import in_batches, on_all
from cogtune.data.rows import TextRow
from cogtune.data.store import ShardWriter
from cogtune.errors import UserError
from cogtune.runtime.devices import devices, dtype_of, set_threads
from cogtune.stages.job import Job, missing

Encoded = tuple[str, Tensor, TextRow]
"""Caption id, context (L, D), what is said of it."""


def run(job: Job) -> dict[str, Any]:
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


def _encode(job: Job, captions: dict[str, str]) -> None:
    args = job.config["args"]
    set_threads(job.machine["ranks"] * (args.get("threads_per_rank") or 1))
    size = args.get("text_batch") or 1
    with (
        job.proven("model.conditioner_config") as check,
        ShardWriter(job.items_dir(), args["flush_megabytes"], args["flush_seconds"]) as writer,
        job.progress(len(captions), "text", "captions") as bar,
    ):
        encoders = [_encoder(job.config, device, size) for device in devices()]
        for done in on_all(in_batches(captions.items(), size), encoders):
            check()  # on a CPU the weights are mapped from their file, which may be read at any time
            for caption_id, context_LD, row in done:
                if not torch.isfinite(context_LD).all():
                    raise UserError(
                        f"T5 gives NaN or infinity in {args['encoder_precision']} for the caption "
                        f"{captions[caption_id][:60]!r}; set args.encoder_precision to bf16 or fp32"
                    )
                row.add(writer, caption_id, context_LD)
                bar.advance()


def _encoder(
    config: dict[str, Any], device: torch.device, size: int
) -> Callable[[list[tuple[str, str]]], list[Encoded]]:
    """A copy of T5 on ``device``, as a function from (id, caption) pairs to what is stored of them."""
    dtype = dtype_of(config["args"]["encoder_precision"])
    conditioner = config["model"]["conditioner_config"]
    embedder, length = (
        build(conditioner).embedder(device, dtype),
        conditioner["params"]["emb_models"][0]["params"]["max_length"],
    )

    def encode(batch: list[tuple[str, str]]) -> list[Encoded]:
        # Always a full batch: kernels are chosen by its size, and a caption must not depend on how many are lacking.
        padding = [""] * (size - len(batch))
        context_BLD = embedder.encode([caption for _, caption in batch] + padding).cpu()
        counts = [embedder.tokens(caption) for _, caption in batch]
        return [
            (caption_id, context_LD, TextRow(count, truncated=count > length))
            for (caption_id, _), context_LD, count in zip(batch, context_BLD, counts, strict=False)
        ]

    return encode
