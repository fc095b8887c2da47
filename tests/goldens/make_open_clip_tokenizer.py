"""Writes `open_clip_tokenizer.npz`: prompts, and the ids open_clip's tokenizer gives.

    pip install --no-deps open_clip_torch
    python tests/goldens/make_open_clip_tokenizer.py weights/clip/merges.txt

`ids` are those of the small vocabulary that open_clip makes of these merges, `vocab` is
that as JSON; `merges` is the file, `prompts` is JSON. Made with open_clip_torch 3.3.0
and ftfy 6.3.1.
"""

import argparse
import gzip
import importlib.util
import json
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np


PROMPTS = (
    "a red cat on a blue background",
    "A Photo, of a CAT!",
    "",
    " \t\n  \r\n ",
    # Quotation marks as a phone or a word processor writes them.
    "the dog\u2019s ball, \u2018quoted\u2019, \u201cdoubly\u201d, it\u2019s don\u2019t",
    # Entities, once, twice and three times escaped; with and without a semicolon.
    "cats &amp; dogs",
    "cats &amp;amp; dogs &amp;amp;amp; mice",
    "5 &lt; 6 &gt; 4, &quot;quoted&quot;, caf&eacute; &copy 2023 &#x27;s &#8217;s",
    "<b>bold &amp;amp; bright</b> &#101;&#769; < 3",
    "a&nbsp;b&#160;c&#28;d&#x85;e",
    # UTF-8 that was read as Windows-1252 or Latin-1, once and twice.
    "the dogâ€™s cafÃ© â€œquotedâ€\x9d",
    "na\u00c3\u0192\u00c2\u00afve \u00e2\u201a\u00ac 5 \u00f0\u0178\u0090\u00b1",
    # Characters that ftfy replaces, and some that it does not.
    "\ufb01sh \ufb02ower \ufb03 \u01c6 \u0133 \u0132",
    "\uff26\uff55\uff4c\uff4c \uff57\uff49\uff44\uff54\uff48 \uff11 \uff76\uff9e",
    "cafe\u0301 nai\u0308ve A\u030angstro\u0308m",
    "\u1e9b\u0323 \u0130stanbul STRASSE stra\u00dfe \u03a3\u03a3 \u039f\u0394\u03a3",
    "'\u017f and K\u212a",
    "\U0001f431 cat \U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "\u732b \u3068 \u72ac\u3001\u3000\ub3d9\ubb3c, \u52d5\u7269\u5712\u306e\u732b",
    "\u05d7\u05ea\u05d5\u05dc \u0642\u0637\u0629 \u0e41\u0e21\u0e27 \u0915\u0941",
    "nul\x00inside, bell\x07, escape\x1b[0m and \x1b[31mred\x1b[0m, unit\x1fseparator",
    "\ufeffbom first, zero\u200bwidth, no\u00a0break, em\u2003space, line\u2028end",
    "soft\u00adhyphen and \u202eright to left, next\u0085line",
    "half a pair \ud83d, a whole one \ud83d\udc31",
    "<|startoftext|>a cat<|endoftext|>",
    "<start_of_text>a cat<end_of_text> ! <END_OF_TEXT> !<end_of_text>",
    "snake_case camelCase kebab-case a/b\\c {x} [y] (z) #tag @user",
    "\u2026 \u2014 \u00a9 \u2122 \u20ac 5\u00b0 \u00bd \u00b2 \u2167 \u0663 3.14",
    "it's the dogs' ball, we'll say they've won; I'M sure he'd, rock'n'roll",
    "a</w> cat</w> \u0120cat",
    "cat " * 100,
    " ".join(["a"] * 74),
    " ".join(["a"] * 75),
    " ".join(["a"] * 76),
    "x" * 500,
)


def find_open_clip() -> pathlib.Path | None:
    """The folder of open_clip, without importing it: it wants all of torchvision."""
    spec = importlib.util.find_spec("open_clip")
    places = None if spec is None else spec.submodule_search_locations
    return pathlib.Path(places[0]) if places else None


def open_clip_tokenizer(folder: pathlib.Path, merges: str | None = None) -> Any:
    """open_clip's `SimpleTokenizer`, of its own merges or of others."""
    spec = importlib.util.spec_from_file_location(
        "open_clip_tokenizer", folder / "tokenizer.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if merges is None:
        return module.SimpleTokenizer()
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "merges.txt.gz"
        path.write_bytes(gzip.compress(merges.encode()))
        return module.SimpleTokenizer(str(path))


def vocabulary(tokenizer: Any) -> dict[str, int]:
    """As transformers writes it: the special tokens have other names there."""
    names = {
        "<start_of_text>": "<|startoftext|>",
        "<end_of_text>": "<|endoftext|>",
    }
    return {names.get(token, token): i for token, i in tokenizer.encoder.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("merges", type=pathlib.Path)
    # One line break at the end would be one merge more, of nothing.
    merges = parser.parse_args().merges.read_text("utf-8").rstrip("\n")
    folder = find_open_clip()
    assert folder is not None
    tokenizer = open_clip_tokenizer(folder, merges)
    path = pathlib.Path(__file__).with_name("open_clip_tokenizer.npz")
    np.savez_compressed(
        path,
        vocab=np.asarray(json.dumps(vocabulary(tokenizer))),
        merges=np.asarray(merges),
        prompts=np.asarray(json.dumps(PROMPTS)),
        ids=tokenizer(list(PROMPTS)).numpy().astype(np.int32),
    )
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
