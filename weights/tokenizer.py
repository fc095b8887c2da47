"""Train the embedded tiny model's tokenizer: CLIP's byte pair encoding, made small.

It learns from all captions of [`scenes`][] and from the names and keywords of the
sprites. The files are those of `transformers.CLIPTokenizer`.

    python weights/tokenizer.py --sprites weights/cache/sprites.npz \\
        --out weights/cache/tokenizer
"""

import argparse
import itertools
import json
import pathlib

import numpy as np
from scenes import ANIMALS, caption, COLORS, PATTERNS, Scene, STYLES
from tokenizers import (
    models,
    normalizers,
    pre_tokenizers,
    processors,
    Regex,
    Tokenizer,
    trainers,
)


VOCAB_SIZE = 1024
MAX_LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"  # of a token that ends a word
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def texts(sprites_path):
    """What the tokenizer learns from: every caption, every name, every keyword."""
    for animal, style, pattern, color in itertools.product(
        ANIMALS, STYLES, PATTERNS, COLORS
    ):
        yield caption(Scene(animal, style, pattern, color, sprite_index=-1))
    with np.load(sprites_path) as file:
        # A name has a sprite in each style: count it once.
        concepts = set(zip(*(file[k].tolist() for k in ("label", "tags")), strict=True))
    for label, tags in sorted(concepts):
        yield label
        yield tags.replace(",", " ")


def split_into_words(tokenizer):
    """Have `tokenizer` lowercase and split its text as CLIP's tokenizer does."""
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )


def byte_symbols():
    """The 256 characters that stand for bytes, in the order of CLIP's vocabulary."""
    # Printable bytes stand for themselves; the others for what follows 255.
    return [chr(i) for i in [*range(33, 127), *range(161, 173), *range(174, 256)]] + [
        chr(256 + i) for i in range(68)
    ]


def train(lines):
    """Learn the merges.

    **Arguments:**

    - `lines`: an iterable of texts.

    **Returns:**

    The vocabulary, `{token: id}`, and the merges, a list of pairs of tokens.
    """
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=SUFFIX))
    split_into_words(tokenizer)
    # Named as special tokens, the bytes get the first numbers, in CLIP's order. Ties
    # between merges go by number, so this also makes training reproducible.
    symbols = byte_symbols()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 2,
        min_frequency=1,
        special_tokens=[*symbols, *(symbol + SUFFIX for symbol in symbols)],
        end_of_word_suffix=SUFFIX,
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    vocab |= {START: len(vocab), END: len(vocab) + 1}
    return vocab, [tuple(pair) for pair in model["merges"]]


def from_vocabulary(vocab, merges):
    """The `tokenizers.Tokenizer` of a vocabulary and merges, padding to the length."""
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token=END, end_of_word_suffix=SUFFIX)
    )
    split_into_words(tokenizer)
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(START, vocab[START]), (END, vocab[END])],
    )
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.enable_padding(length=MAX_LENGTH, pad_id=vocab[END], pad_token=END)
    return tokenizer


def save(folder, vocab, merges):
    """Write the four files of a `CLIPTokenizer`."""
    folder.mkdir(parents=True, exist_ok=True)
    special_tokens = {
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
    }
    config = special_tokens | {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": MAX_LENGTH,
        "tokenizer_class": "CLIPTokenizer",
    }

    def write(name, text):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")

    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    write("merges.txt", "\n".join(lines) + "\n")
    write("vocab.json", json.dumps(vocab, ensure_ascii=False) + "\n")
    write("special_tokens_map.json", json.dumps(special_tokens, indent=2) + "\n")
    write("tokenizer_config.json", json.dumps(config, indent=2) + "\n")


def main():
    """Train the tokenizer and write its files."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sprites", required=True, help="a file of sprites, .npz")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="a folder")
    args = parser.parse_args()
    vocab, merges = train(texts(args.sprites))
    # "3d" is not one word to CLIP: its numbers are single digits.
    words = {*ANIMALS, *COLORS, *PATTERNS, *STYLES, "style", "on", "background"}
    if split := sorted(w for w in words - {"3d"} if w + SUFFIX not in vocab):
        raise RuntimeError(f"The words of captions must be single tokens; got {split}.")
    save(args.out, vocab, merges)
    tokenizer = from_vocabulary(vocab, merges)
    longest = max(
        sum(tokenizer.encode(line).attention_mask)
        for line in itertools.islice(texts(args.sprites), 8100)
    )
    print(f"{len(vocab)} tokens; captions have at most {longest} of {MAX_LENGTH}")


if __name__ == "__main__":
    main()
