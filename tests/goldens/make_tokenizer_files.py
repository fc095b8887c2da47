"""Writes `tokenizer_files.json`: folders of a tokenizer, and ids of transformers.

python tests/goldens/make_tokenizer_files.py

Each case has some of the small files of a folder; `vocab.json` and `merges.txt` are
those of `tokenizer.npz`, whose last two ids are the special tokens, 1022 and 1023.
Made with transformers 5.24.0.
"""

import json
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np


LENGTH = 16
GOLDEN = pathlib.Path(__file__).with_name("tokenizer_files.json")
START, END = "<|startoftext|>", "<|endoftext|>"
PROMPTS = (
    "a cat! !x",
    "<Cat-Toy> and <cat-toy>x <b>",
    "my  <b>  lifestyle, STYLE",
    "<|ENDOFTEXT|> <|endoftext|>a",
    "",
)


def flagged(content: str, **flags: bool) -> dict[str, Any]:
    off = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": content} | off | flags


_WORDS = {"1024": flagged("<Cat-Toy>", normalized=True)}
_ENDS = {
    str(1022 + i): flagged(token, special=True) for i, token in enumerate((START, END))
}
CONFIG, MAP, ADDED = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
CASES: dict[str, dict[str, Any]] = {
    "nothing": {},
    # As Stable Diffusion 2 was published.
    "the map wins": {CONFIG: {"pad_token": END}, MAP: {"pad_token": "!"}},
    "the config is alone": {CONFIG: {"pad_token": "!"}},
    "the map is alone": {MAP: {"pad_token": flagged("!")}},
    "the decoder stands in the config": {
        CONFIG: {"pad_token": END, "added_tokens_decoder": _ENDS},
        MAP: {"pad_token": "!"},
        ADDED: {"<b>": 1024},
    },
    "an empty decoder": {
        CONFIG: {"added_tokens_decoder": {}},
        MAP: {"pad_token": "!"},
    },
    "no token of the vocabulary": {MAP: {"pad_token": "<pad>"}},
    "other ends": {MAP: {"bos_token": "!", "eos_token": "a</w>"}},
    "flags of an end": {
        CONFIG: {"eos_token": flagged(END) | {"__type": "AddedToken"}},
        MAP: {
            "eos_token": flagged(END, normalized=True),
            "unk_token": flagged(END, normalized=True, rstrip=True),
            "pad_token": flagged(END, normalized=True),
        },
    },
    "words in a file of their own": {
        CONFIG: {"pad_token": END},
        ADDED: {"<Cat-Toy>": 1024, "style": 1025, "<b>": 1026},
    },
    "words in the decoder": {
        CONFIG: {
            "added_tokens_decoder": _ENDS
            | _WORDS
            | {
                "1025": flagged("style", single_word=True, special=False),
                "1026": flagged("<b>", lstrip=True, rstrip=True, special=True),
            }
        }
    },
    "special words": {
        CONFIG: {"additional_special_tokens": ["<b>"], "mask_token": "style"}
    },
}


def write_folder(folder: pathlib.Path, case: Mapping[str, Any], vocabulary) -> None:
    """**Arguments:**

    - `folder`: There already.
    - `case`: The small files, by name.
    - `vocabulary`: The opened `tokenizer.npz`.
    """
    case = {CONFIG: {}} | dict(case)
    case[CONFIG] = {"model_max_length": LENGTH} | case[CONFIG]
    for name in ("vocab", "merges"):
        path = folder / {"vocab": "vocab.json", "merges": "merges.txt"}[name]
        path.write_text(str(vocabulary[name]), encoding="utf-8", newline="\n")
    for name, content in case.items():
        (folder / name).write_text(json.dumps(content), "utf-8")


def theirs(folder: pathlib.Path) -> dict[str, Any]:
    """What transformers makes of a folder."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder)
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    rows = tokenizer(
        list(PROMPTS), padding="max_length", truncation=True, max_length=LENGTH
    )
    return dict(
        special={name: getattr(tokenizer, name) for name in names},
        added={str(token): i for i, token in tokenizer.added_tokens_decoder.items()},
        ids=rows["input_ids"],
    )


def main() -> None:
    golden = {}
    with np.load(pathlib.Path(__file__).with_name("tokenizer.npz")) as vocabulary:
        for name, case in CASES.items():
            with tempfile.TemporaryDirectory() as folder:
                write_folder(pathlib.Path(folder), case, vocabulary)
                golden[name] = theirs(pathlib.Path(folder))
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in golden.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
