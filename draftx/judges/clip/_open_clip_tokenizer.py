"""Prompts as open_clip reads them, which is not quite how transformers does."""

import html
import warnings
from typing import Any

import numpy as np
from jaxtyping import Int
from tokenizers import pre_tokenizers, Regex, Tokenizer

from ..._custom_types import Prompts
from ..._table import check_prompts
from ...models.clip import CLIPTokenizer


# Start and end, as they may be written out in a prompt.
_SPECIAL = ("<start_of_text>", "<end_of_text>")
# The order is that of open_clip: where a special token begins, it comes first.
_PIECES = (
    rf"(?i){'|'.join(_SPECIAL)}|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class OpenCLIPTokenizer:
    """Turns prompts into rows of token ids of one length, as open_clip does.

    The vocabulary is CLIP's; id for id they are those of open_clip's `SimpleTokenizer`.
    Unlike transformers' tokenizer it repairs the text first: what was decoded wrongly,
    typographic quotation marks, characters of other widths (ftfy's `fix_text`), then
    HTML's entities, twice. `<|endoftext|>` written out in a prompt is plain text,
    `<end_of_text>` is the token. Rows are filled up with zeros.
    """

    def __init__(self, tokenizer: CLIPTokenizer):
        """**Arguments:**

        - `tokenizer`: Has the vocabulary, and the length of a row.
        """
        self.tokenizer = tokenizer
        self.max_length = tokenizer.max_length
        self.vocab_size = tokenizer.vocab_size
        inner = Tokenizer.from_str(tokenizer.to_json())
        self._model = inner.model
        names = (tokenizer.bos_token, tokenizer.eos_token)
        self._special = dict(zip(_SPECIAL, map(inner.token_to_id, names), strict=True))
        self._split = pre_tokenizers.Split(
            Regex(_PIECES), behavior="removed", invert=True
        )
        self._to_bytes = pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=False
        )

    def __eq__(self, other: object) -> bool:
        """Compares contents: trees with equal tokenizers have the same structure."""
        if not isinstance(other, OpenCLIPTokenizer):
            return NotImplemented
        return self.tokenizer == other.tokenizer

    def __hash__(self) -> int:
        return hash((OpenCLIPTokenizer, self.tokenizer))

    def __call__(self, prompts: Prompts) -> Int[np.ndarray, "batch tokens"]:
        """Encodes prompts as `[batch, max_length]` token ids.

        **Arguments:**

        - `prompts`: A non-empty sequence of strings. One that is too long is cut, with
            a warning that names what was lost.

        **Returns:**

        Token ids, int32, `max_length` a row.
        """
        check_prompts(prompts)
        start, end = self._special.values()
        rows = np.zeros((len(prompts), self.max_length), np.int32)
        for row, prompt in zip(rows, prompts, strict=True):
            text = repaired(prompt)
            ids, begins = self._encode(text)
            kept = self.max_length - 2
            if len(ids) > kept:
                warnings.warn(
                    f"A prompt has {len(ids) + 2} tokens and the text encoder takes "
                    f"{self.max_length}; this part is lost: {text[begins[kept] :]!r}.",
                    stacklevel=2,
                )
            tokens = [start, *ids[:kept], end]
            row[: len(tokens)] = tokens
        return rows

    def _encode(self, text: str) -> tuple[list[int], list[int]]:
        """The ids of a text, and where in it the piece of each begins."""
        ids: list[int] = []
        begins: list[int] = []
        for piece, (begin, _) in self._split.pre_tokenize_str(text):
            if piece in self._special:
                new: list[Any] = [self._special[piece]]
            else:
                ((in_bytes, _),) = self._to_bytes.pre_tokenize_str(piece)
                new = [token.id for token in self._model.tokenize(in_bytes)]
            ids += new
            begins += [begin] * len(new)
        return ids, begins


def repaired(text: str) -> str:
    """Repairs a text as open_clip does before it reads it, and makes it lower-case.

    **Arguments:**

    - `text`: A prompt.
    """
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()
