"""CLIP's vocabulary, which no file of weights has with it."""

import gzip

from ...models import CLIPTokenizer
from ..sources import EmbeddedFolder


# Merges that CLIP takes of the file: its vocabulary less bytes and special tokens.
_NUM_MERGES = 49152 - 256 - 2


def clip_tokenizer(pad_token: str) -> CLIPTokenizer:
    """Makes the tokenizer of Stable Diffusion 1.x and 2.x.

    **Arguments:**

    - `pad_token`: What rows are filled up with.
    """
    folder = EmbeddedFolder("clip_bpe").find("CLIP's vocabulary")
    path = folder / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges = [(one, two) for one, two in map(str.split, lines[1 : 1 + _NUM_MERGES])]
    letters = list(_letters_of_bytes())
    words = letters + [letter + "</w>" for letter in letters]
    words += ["".join(merge) for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer.from_pairs(vocab, merges, pad_token=pad_token)


def _letters_of_bytes() -> list[str]:
    """A printable letter for each byte, those that are one already first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]
