"""Small random weights in the real formats: `python -m tests.workflow.weights FOLDER [SEED]` (own process: it imports torch)."""

import sys
from pathlib import Path

import torch

from cogtune.config.build import build
from cogtune.work.load import load_config

CAPTIONS = ["a wave rolls over the sand", "stripes move to the left", "a pattern that nobody trained on", "other words"]


def make_vae(path: Path, seed: int) -> None:
    """3d-vae.pt as upstream ships it: a file dict with the weights under ``state_dict``."""
    config = load_config([Path(__file__).parent / "tiny.yaml"], check_files=False).values
    node = config["model"]["first_stage_config"]
    torch.manual_seed(seed)
    vae = build(node | {"params": node["params"] | {"ckpt_path": None}})
    torch.save({"state_dict": vae.state_dict()}, path)  # pyright: ignore


def make_t5(folder: Path, seed: int) -> None:
    """A T5 encoder and a sentencepiece vocabulary trained on a few captions."""
    import io

    import sentencepiece
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS * 4), model_writer=model, vocab_size=48, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = T5Config(vocab_size=len(vocabulary), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    T5EncoderModel(sizes).save_pretrained(folder)


if __name__ == "__main__":
    target, seed = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    target.mkdir(parents=True, exist_ok=True)
    make_vae(target / "3d-vae.pt", seed)
    make_t5(target / "t5", seed)
