import json
import pathlib
import warnings
from typing import Any

import numpy as np
from jaxtyping import Int
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    Regex,
    Tokenizer,
)

from ..._custom_types import Prompts
from ..._table import check_prompts


_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class CLIPTokenizer:
    """Turns prompts into rows of token ids of one length, by CLIP's byte pairs.

    Equal, id for id, to transformers' `CLIPTokenizer`. Every row is start, text, end,
    then padding up to `max_length`.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int, pad_token: str = _END):
        """**Arguments:**

        - `tokenizer`: Without padding and truncation, adding both special tokens.
        - `max_length`: Tokens in a row, 77 for CLIP.
        - `pad_token`: What rows are filled up with.
        """
        for token in (_START, _END, pad_token):
            if tokenizer.token_to_id(token) is None:
                raise ValueError(f"`tokenizer` must have the token {token!r}.")
        self._tokenizer = tokenizer
        self._pad_id: Any = tokenizer.token_to_id(pad_token)
        self.pad_token = pad_token
        self.max_length = max_length
        self._hash = hash(self._identity())

    @classmethod
    def from_files(
        cls,
        vocab: str | pathlib.Path,
        merges: str | pathlib.Path,
        *,
        max_length: int = 77,
        pad_token: str = _END,
    ) -> "CLIPTokenizer":
        """Builds the encoding from `vocab.json` and `merges.txt`.

        **Arguments:**

        - `vocab`, `merges`: The two files.
        - `max_length`, `pad_token`: As in the constructor.
        """
        model = models.BPE.from_file(
            str(vocab), str(merges), unk_token=_END, end_of_word_suffix="</w>"
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
        # Written out in a prompt they are the special tokens, as in transformers.
        specials = [
            AddedToken(t, normalized=False, special=True) for t in (_START, _END)
        ]
        if pad_token not in (_START, _END):
            specials.append(AddedToken(pad_token, normalized=False, special=True))
        tokenizer.add_special_tokens(specials)
        ids = [(token, tokenizer.token_to_id(token)) for token in (_START, _END)]
        tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore
            single=f"{_START} $A {_END}", special_tokens=ids
        )
        return cls(tokenizer, max_length=max_length, pad_token=pad_token)

    @classmethod
    def from_folder(cls, folder: str | pathlib.Path) -> "CLIPTokenizer":
        """Reads a published tokenizer folder.

        **Arguments:**

        - `folder`: Has `vocab.json` and `merges.txt`, or `tokenizer.json`; and usually
            `tokenizer_config.json` and `special_tokens_map.json`.
        """
        folder = pathlib.Path(folder)
        config = _read_json(folder / "tokenizer_config.json")
        special = _read_json(folder / "special_tokens_map.json")
        pad = config.get("pad_token") or special.get("pad_token") or _END
        pad = pad["content"] if isinstance(pad, dict) else pad
        # Some files carry a sentinel of 1e30 for "no limit".
        length = config.get("model_max_length", 77)
        length = 77 if not isinstance(length, int) or length > 10_000 else length
        vocab, merges = folder / "vocab.json", folder / "merges.txt"
        if vocab.is_file() and merges.is_file():
            return cls.from_files(vocab, merges, max_length=length, pad_token=pad)
        whole = folder / "tokenizer.json"
        if whole.is_file():
            tokenizer = Tokenizer.from_file(str(whole))
            tokenizer.no_padding()
            tokenizer.no_truncation()
            return cls(tokenizer, max_length=length, pad_token=pad)
        raise FileNotFoundError(
            "`folder` must hold `vocab.json` and `merges.txt`, or `tokenizer.json`; "
            f"got {str(folder)!r}, which holds neither."
        )

    def with_max_length(self, max_length: int) -> "CLIPTokenizer":
        """Makes the same encoding with rows of another length."""
        return CLIPTokenizer(
            self._tokenizer, max_length=max_length, pad_token=self.pad_token
        )

    def __eq__(self, other: object) -> bool:
        """Compares contents: trees with equal tokenizers have the same structure."""
        if not isinstance(other, CLIPTokenizer):
            return NotImplemented
        return self is other or self._identity() == other._identity()

    def __hash__(self) -> int:
        return self._hash

    def _identity(self):
        return self.to_json(), self.max_length, self._pad_id

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self._tokenizer.get_vocab_size()

    def to_json(self) -> str:
        """Writes the `tokenizer.json` of this tokenizer."""
        return self._tokenizer.to_str(pretty=True)

    def __call__(self, prompts: Prompts) -> Int[np.ndarray, "batch tokens"]:
        """Encodes prompts as `[batch, max_length]` token ids.

        **Arguments:**

        - `prompts`: A non-empty sequence of strings. One that is too long is cut, with
            a warning that names what was lost.

        **Returns:**

        Token ids, int32, `max_length` a row.
        """
        ids, _ = encode_rows(
            self._tokenizer, prompts, max_length=self.max_length, pad_id=self._pad_id
        )
        return ids


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
        # A lone surrogate cannot be encoded; it becomes a question mark.
        prompt = prompt.encode("utf-8", "replace").decode("utf-8")
        encoding = tokenizer.encode(prompt)
        tokens = encoding.ids
        if len(tokens) > max_length:
            end = encoding.offsets[max_length - 2][1]
            warnings.warn(
                f"A prompt has {len(tokens)} tokens and the text encoder takes "
                f"{max_length}; this part is lost: {prompt[end:].strip()!r}.",
                stacklevel=3,
            )
            tokens = [*tokens[: max_length - 1], tokens[-1]]
        ids[i, : len(tokens)] = tokens
        lengths[i] = len(tokens)
    return ids, lengths


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
