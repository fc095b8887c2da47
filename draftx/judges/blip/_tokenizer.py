import pathlib
from typing import Any

import numpy as np
from jaxtyping import Int
from tokenizers import (
    AddedToken,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    Tokenizer,
)

from ..._custom_types import Prompts
from ...models.clip import encode_rows


_START, _END, _PAD, _UNKNOWN = "[CLS]", "[SEP]", "[PAD]", "[UNK]"
_SPECIAL = (_PAD, _UNKNOWN, _START, _END, "[MASK]")
# What BLIP adds to BERT's vocabulary, in this order.
_ADDED = ("[DEC]", "[ENC]")


class BertTokenizer:
    """Turns prompts into BERT's word pieces, with the two tokens that BLIP adds.

    Equal, id for id, to transformers' `BertTokenizer` of `bert-base-uncased` after
    `[DEC]` and `[ENC]` were added. Every row is `[CLS]`, text, `[SEP]`, padding.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int = 35):
        """**Arguments:**

        - `tokenizer`: Without padding and truncation, adding `[CLS]` and `[SEP]`.
        - `max_length`: Tokens in a row, 35 for ImageReward.
        """
        for token in (*_SPECIAL, *_ADDED):
            if tokenizer.token_to_id(token) is None:
                raise ValueError(f"`tokenizer` must have the token {token!r}.")
        if max_length < 3:
            raise ValueError(f"`max_length` must be at least 3; got {max_length}.")
        self._tokenizer = tokenizer
        self._pad_id: Any = tokenizer.token_to_id(_PAD)
        self.max_length = max_length
        self._hash = hash(self._identity())

    @classmethod
    def from_vocab(
        cls, vocab: str | pathlib.Path, *, max_length: int = 35
    ) -> "BertTokenizer":
        """Builds the encoding from a `vocab.txt` of lower-case words.

        **Arguments:**

        - `vocab`: One piece a line, its id the number of the line.
        - `max_length`: Tokens in a row.
        """
        pieces = pathlib.Path(vocab).read_text("utf-8").splitlines()
        ids = {piece: i for i, piece in enumerate(pieces)}
        missing = [token for token in _SPECIAL if token not in ids]
        if missing:
            raise ValueError(
                f"`vocab` must have the pieces {list(_SPECIAL)}, one a line, as the "
                f"vocab.txt of bert-base-uncased has; {str(vocab)!r} lacks {missing}."
            )
        model: Any = models.WordPiece(
            ids, unk_token=_UNKNOWN, max_input_chars_per_word=100
        )
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)  # pyright: ignore
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore
        tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore
            single=f"{_START} $A {_END}",
            special_tokens=[(token, ids[token]) for token in (_START, _END)],
        )
        # Written out in a prompt they are the special tokens, as in transformers.
        tokenizer.add_special_tokens(
            [AddedToken(t, normalized=False, special=True) for t in _SPECIAL + _ADDED]
        )
        return cls(tokenizer, max_length=max_length)

    def __eq__(self, other: object) -> bool:
        """Compares contents: trees with equal tokenizers have the same structure."""
        if not isinstance(other, BertTokenizer):
            return NotImplemented
        return self is other or self._identity() == other._identity()

    def __hash__(self) -> int:
        return self._hash

    def _identity(self):
        return self._tokenizer.to_str(), self.max_length

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self._tokenizer.get_vocab_size()

    def __call__(
        self, prompts: Prompts
    ) -> tuple[Int[np.ndarray, "batch tokens"], Int[np.ndarray, " batch"]]:
        """Encodes prompts as `[batch, max_length]` token ids, and their lengths.

        **Arguments:**

        - `prompts`: A non-empty sequence of strings. One that is too long is cut, with
            a warning that names what was lost.

        **Returns:**

        Token ids, `max_length` a row, and how many of each row are no padding; int32.
        """
        return encode_rows(
            self._tokenizer, prompts, max_length=self.max_length, pad_id=self._pad_id
        )
