"""CLIP's byte pairs, and rows of ids."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int
from tokenizers import decoders, models, normalizers, pre_tokenizers, Regex, Tokenizer

from ..._custom_types import Prompts
from ..._table import check_prompts


_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def byte_pairs(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], unk_token: str
) -> Tokenizer:
    """Makes CLIP's encoding, without added tokens.

    **Arguments:**

    - `vocab`: Ids by token.
    - `merges`: Pairs of tokens, most frequent first.
    - `unk_token`: Stands for what the vocabulary lacks.
    """
    model = models.BPE(
        dict(vocab), list(merges), unk_token=unk_token, end_of_word_suffix="</w>"
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(  # pyright: ignore
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    return tokenizer


def encode_rows(
    tokenizer: Tokenizer, prompts: Prompts, *, max_length: int, pad_id: int
) -> tuple[Int[np.ndarray, "batch tokens"], Int[np.ndarray, " batch"]]:
    """Makes rows of token ids of prompts, and counts what is no padding.

    **Arguments:**

    - `tokenizer`: Adds one special token at the start and one at the end.
    - `prompts`: A non-empty sequence of strings. One that is too long is cut, with a
        warning that names what was lost.
    - `max_length`: Tokens in a row.
    - `pad_id`: What rows are filled up with.

    **Returns:**

    Token ids, and how many of each row are no padding; int32.
    """
    check_prompts(prompts)
    ids = np.full((len(prompts), max_length), pad_id, np.int32)
    lengths = np.zeros(len(prompts), np.int32)
    for i, prompt in enumerate(prompts):
        prompt = encodable(prompt)
        encoding = tokenizer.encode(prompt)
        tokens = encoding.ids
        if len(tokens) > max_length:
            # A letter of several tokens is lost with the first that does not fit.
            begin = encoding.offsets[max_length - 1][0]
            warnings.warn(
                f"A prompt has {len(tokens)} tokens and the tokenizer takes "
                f"{max_length}; this part is lost: {prompt[begin:].strip()!r}.",
                stacklevel=3,
            )
            tokens = [*tokens[: max_length - 1], tokens[-1]]
        ids[i, : len(tokens)] = tokens
        lengths[i] = len(tokens)
    return ids, lengths


def encodable(prompt: str) -> str:
    """Makes a string that UTF-8 has: a lone surrogate becomes a question mark."""
    return prompt.encode("utf-8", "replace").decode("utf-8")
