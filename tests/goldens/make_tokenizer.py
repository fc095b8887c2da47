"""Writes `tokenizer.npz`: odd prompts, and the ids transformers' tokenizer gives them.

python tests/goldens/make_tokenizer.py weights/tiny/tokenizer

`vocab` and `merges` are the two files of that folder, `prompts` is JSON, `ids` has the
padding token that the files name and `ids_exclamation` has `!`, as Stable Diffusion 2
has. Made with transformers 5.23.0.
"""

import argparse
import json
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np


MAX_LENGTH = 32
PROMPTS = (
    "a red cat on a blue background",
    "A Photo, of a CAT!",
    "",
    " ",
    " \t\n  \r\n ",
    "  leading and   inner \n and trailing\t ",
    "it's the dogs' ball, we'll say they've won; I'M sure he'd",
    "don't CAN'T 'quoted' ''twice'' rock'n'roll",
    "3d 1234567890 3.14 1,000 x2 2x ½ ² Ⅷ ٣",
    "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m",
    "cafe\u0301 nai\u0308ve A\u030angstro\u0308m",
    "\u1e9b\u0323 \u0130stanbul STRASSE stra\u00dfe \u03a3\u03a3",
    "\ufb01sh \ufb02ower \u01c6 \u00e6on \u0153uvre",
    "\U0001f431 cat \U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "\u732b \u3068 \u72ac, \ub3d9\ubb3c, \u52d5\u7269\u5712\u306e\u732b",
    "\u05d7\u05ea\u05d5\u05dc \u0642\u0637\u0629 \u0e41\u0e21\u0e27 \u0915\u0941",
    "nul\x00inside, bell\x07, escape\x1b[0m",
    "\ufeffbom first, zero\u200bwidth, no\u00a0break, em\u2003space, line\u2028end",
    "soft\u00adhyphen and \u202eright to left",
    "<|startoftext|>a cat<|endoftext|>",
    "a <|endoftext|> in the middle <|endoftext|><|endoftext|>",
    "<|ENDOFTEXT|> < |endoftext| > <|start",
    "a!b !! !c hello!",
    "snake_case camelCase kebab-case a/b\\c {x} [y] (z) #tag @user",
    "\u2026 \u2014 \u201cquoted\u201d \u00a9 \u2122 \u20ac 5\u00b0",
    "a</w> cat</w> \u0120cat",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "cat " * 500,
    "x" * 5000,
    "\U0001f431" * 40,
    " ".join(f"word{i}" for i in range(20)),
    # One below, at and above the length, each word of the vocabulary.
    " ".join(["cat"] * (MAX_LENGTH - 3)),
    " ".join(["cat"] * (MAX_LENGTH - 2)),
    " ".join(["cat"] * (MAX_LENGTH - 1)),
)


def transformers_tokenizer(folder: pathlib.Path, pad_token: str = "<|endoftext|>"):
    """transformers' tokenizer of the two files of a folder, and nothing beside them."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(folder / name, scratch)
        return CLIPTokenizer.from_pretrained(
            scratch, model_max_length=MAX_LENGTH, pad_token=pad_token
        )


def ids(tokenizer: Any, prompts) -> np.ndarray:
    """Rows as the pipelines of diffusers ask for them."""
    rows = tokenizer(
        list(prompts), padding="max_length", truncation=True, max_length=MAX_LENGTH
    )
    return np.asarray(rows["input_ids"], np.int32)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    path = pathlib.Path(__file__).with_name("tokenizer.npz")
    np.savez_compressed(
        path,
        vocab=np.asarray((folder / "vocab.json").read_text("utf-8")),
        merges=np.asarray((folder / "merges.txt").read_text("utf-8")),
        prompts=np.asarray(json.dumps(PROMPTS)),
        ids=ids(transformers_tokenizer(folder), PROMPTS),
        ids_exclamation=ids(transformers_tokenizer(folder, "!"), PROMPTS),
    )
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
