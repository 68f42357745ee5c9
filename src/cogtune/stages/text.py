"""Stage `text`: encodes every distinct caption once, with T5."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cogtune.config.build import build, params_of
from cogtune.data.pipeline import in_batches, map_over_devices
from cogtune.data.rows import TextRow
from cogtune.data.store import ShardWriter
from cogtune.errors import UserError
from cogtune.runtime.devices import devices, dtype_of, prepare_torch
from cogtune.stages.job import Job
from cogtune.stages.make_rows import make_rows
from cogtune.stages.run_counts import RunCounts
from cogtune.work.inputs import TextInput

Encoded = tuple[str, Tensor, TextRow]
"""Caption id, context (L, D), its row."""


@dataclass(frozen=True, kw_only=True)
class TextCounts(RunCounts):
    """``truncated``: number of truncated captions."""

    truncated: int


def run(job: Job[TextInput]) -> RunCounts:
    """One row per caption: ``context`` (L, D) and its number of tokens. A caption with more than L tokens was truncated.

    Raises UserError if a context is not finite.
    """
    captions = {row.caption_id: row.caption for row in sorted(job.manifest(), key=lambda row: row.caption_id)}
    counts = encode(job, captions)
    if job.part:
        return counts
    return TextCounts(
        made=counts.made,
        reused=counts.reused,
        truncated=sum(row.truncated for _, row in TextRow.read_all(job.rows(), captions)),
    )


def encode(job: Job[TextInput], captions: dict[str, str]) -> RunCounts:
    """Make the rows that are missing of ``captions``, by caption id. The caller holds the lock of the folder."""
    return make_rows(
        job,
        [[caption_id] for caption_id in captions],
        lambda missing: _encode(job, {caption_id: captions[caption_id] for caption_id in missing}),
    )


def _encode(job: Job[TextInput], captions: dict[str, str]) -> None:
    settings = job.input
    prepare_torch(job.ranks * settings.threads)
    with (
        job.proven("model.conditioner_config") as check,
        ShardWriter(job.items_dir(), settings.flush_megabytes, settings.flush_seconds) as writer,
        job.progress(len(captions), "text", "captions") as bar,
    ):
        encoders = [_encoder(settings, device) for device in devices(job.one_device)]
        for done in map_over_devices(in_batches(captions.items(), settings.batch), encoders):
            check()  # on a CPU the weights are memory-mapped, so their file is read throughout
            for caption_id, context_LD, row in done:
                if not torch.isfinite(context_LD).all():
                    raise UserError(
                        f"T5 output contains NaN or infinity in {settings.precision} for the caption "
                        f"{captions[caption_id][:60]!r}; set args.encoder_precision to bf16 or fp32"
                    )
                row.add(writer, caption_id, context_LD)
                bar.advance()


def _encoder(settings: TextInput, device: torch.device) -> Callable[[list[tuple[str, str]]], list[Encoded]]:
    """A copy of T5 on ``device``, as a function from (id, caption) pairs to rows."""
    dtype = dtype_of(settings.precision)
    embedder = build(settings.conditioner).embedder(device, dtype)
    (node,) = params_of(settings.conditioner).emb_models
    length = params_of({"target": node["target"], "params": node["params"]}).max_length

    def encode(batch: list[tuple[str, str]]) -> list[Encoded]:
        # Always a full batch: its size selects the kernels, and a context must not depend on how many rows are missing.
        padding = [""] * (settings.batch - len(batch))
        context_BLD = embedder.encode([caption for _, caption in batch] + padding).cpu()
        counts = [embedder.tokens(caption) for _, caption in batch]
        return [
            (caption_id, context_LD, TextRow(count, truncated=count > length))
            for (caption_id, _), context_LD, count in zip(batch, context_BLD, counts, strict=False)
        ]

    return encode
