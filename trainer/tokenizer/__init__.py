"""Text to ids and back: raw bytes, GPT-2's BPE, or a BPE trained on the corpus.

A tokenizer is known by its `identity`, a hash over what determines its ids. It
travels as a folder beside the shards and inside every checkpoint, so that a
host needs no network to read what was written elsewhere.

    open_tokenizer(config)   load_tokenizer(folder)   train_bpe(texts, vocab_size)
"""

from trainer.tokenizer.base import END_OF_TEXT, Tokenizer
from trainer.tokenizer.bpe import train_bpe
from trainer.tokenizer.pieces import pieces
from trainer.tokenizer.saved import load_tokenizer, open_tokenizer, save_whole
from trainer.tokenizer.special import SPECIAL_TOKENS

__all__ = [
    "END_OF_TEXT",
    "SPECIAL_TOKENS",
    "Tokenizer",
    "load_tokenizer",
    "open_tokenizer",
    "pieces",
    "save_whole",
    "train_bpe",
]
