import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from tokenizers import AddedToken, models, processors, Tokenizer

from ..._custom_types import Prompts
from ..._table import check_prompts
from ._byte_pairs import byte_pairs, encodable, encode_rows
from ._tokenizer_files import (
    END,
    read_tokenizer_folder,
    SPECIAL_TOKENS,
    START,
    TokenizerFiles,
)


class CLIPTokenizer:
    """Turns prompts into rows of token ids of one length, by CLIP's byte pairs.

    Equal, id for id, to transformers' `CLIPTokenizer`. Every row is start, text, end,
    then padding up to `max_length`.

    A learned word of several vectors is several tokens, `<cat>`, `<cat>_1`, `<cat>_2`,
    ...; the first stands for all in a prompt, as in diffusers.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        pad_token: str = END,
        bos_token: str = START,
        eos_token: str = END,
    ):
        """**Arguments:**

        - `tokenizer`: Without padding and truncation, adding both special tokens.
        - `max_length`: Tokens in a row, 77 for CLIP.
        - `pad_token`: What rows are filled up with.
        - `bos_token`, `eos_token`: What `tokenizer` puts first and last.
        """
        for token in (bos_token, eos_token, pad_token):
            if tokenizer.token_to_id(token) is None:
                raise ValueError(f"`tokenizer` must have the token {token!r}.")
        if max_length < 2:
            raise ValueError(
                f"`max_length` must have place for start and end; got {max_length}."
            )
        self._tokenizer = tokenizer
        self._pad_id: Any = tokenizer.token_to_id(pad_token)
        self.pad_token = pad_token
        self.bos_token, self.eos_token = bos_token, eos_token
        self.max_length = max_length
        self._added = tokenizer.get_added_tokens_decoder()
        self._vocab_size = 1 + max(tokenizer.get_vocab().values())
        self._whole_words = _whole_words([t.content for t in self._added.values()])
        self._hash = hash(self._identity())

    @classmethod
    def from_files(
        cls,
        vocab: str | pathlib.Path,
        merges: str | pathlib.Path,
        *,
        max_length: int = 77,
        pad_token: str = END,
    ) -> "CLIPTokenizer":
        """Builds the encoding from `vocab.json` and `merges.txt`.

        **Arguments:**

        - `vocab`, `merges`: The two files.
        - `max_length`, `pad_token`: As in the constructor.
        """
        words, pairs = models.BPE.read_file(str(vocab), str(merges))
        return cls.from_pairs(words, pairs, max_length=max_length, pad_token=pad_token)

    @classmethod
    def from_pairs(
        cls,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        max_length: int = 77,
        pad_token: str = END,
    ) -> "CLIPTokenizer":
        """Builds the encoding from a vocabulary and the byte pairs that make it.

        **Arguments:**

        - `vocab`: Ids by token.
        - `merges`: Pairs of tokens that become one, the first that may be first.
        - `max_length`, `pad_token`: As in the constructor.
        """
        special = SPECIAL_TOKENS | {"pad_token": pad_token}
        files = TokenizerFiles(vocab, [*merges], special, {}, [], max_length)
        return cls._build(files)

    @classmethod
    def from_folder(cls, folder: str | pathlib.Path) -> "CLIPTokenizer":
        """Reads a published tokenizer folder, as transformers reads it.

        Where files contradict each other, `added_tokens_decoder` in
        `tokenizer_config.json` has the last word on added tokens; if it is not there,
        `special_tokens_map.json` stands above `tokenizer_config.json`. A token whose
        id cannot be followed is a `ValueError`.

        **Arguments:**

        - `folder`: Has `vocab.json` and `merges.txt`, or `tokenizer.json`, which counts
            if all are there; and usually `tokenizer_config.json`,
            `special_tokens_map.json` and `added_tokens.json`.
        """
        return cls._build(read_tokenizer_folder(pathlib.Path(folder)))

    @classmethod
    def _build(cls, files: TokenizerFiles) -> "CLIPTokenizer":
        special = {name: str(token) for name, token in files.special.items()}
        tokenizer = byte_pairs(files.vocab, files.merges, special["unk_token"])
        # Written out in a prompt they are themselves, whatever the byte pairs say.
        tokenizer.add_tokens(files.all_added())
        for i, token in files.added.items():
            got = tokenizer.token_to_id(str(token))
            if got != i:
                raise ValueError(
                    f"Added tokens must have the ids after the vocabulary's "
                    f"{len(files.vocab)}, without gaps, or those they have in it; "
                    f"{str(token)!r} is to have {i}, and would get {got}."
                )
        bos, eos = special["bos_token"], special["eos_token"]
        ids = [(token, tokenizer.token_to_id(token)) for token in {bos: 0, eos: 1}]
        tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore
            single=[bos, "$A", eos], special_tokens=ids
        )
        return cls(
            tokenizer,
            max_length=files.max_length,
            pad_token=special["pad_token"],
            bos_token=bos,
            eos_token=eos,
        )

    def with_max_length(self, max_length: int) -> "CLIPTokenizer":
        """Makes the same encoding with rows of another length."""
        return self._replace(self._tokenizer, max_length)

    def with_word(self, word: str, vectors: int = 1) -> "CLIPTokenizer":
        """Makes the same encoding with a learned word, its ids after all others.

        The word is found wherever its letters stand in a prompt, in either case, as
        transformers' `add_tokens` has it.

        **Arguments:**

        - `word`: No token yet, nor the word with a number, `<cat>_1`, that another word
            would take for a vector of its own; else it is a `ValueError`.
        - `vectors`: How many tokens it stands for.
        """
        tokens = [word, *(f"{word}_{i}" for i in range(1, vectors))]
        tokenizer = Tokenizer.from_str(self.to_json())
        spell = tokenizer.normalizer.normalize_str
        known = {spell(token.content): token.content for token in self._added.values()}
        for token in (*tokens, f"{word}_{vectors}"):
            other = known.get(spell(token), token)
            if tokenizer.token_to_id(token) is not None or other != token:
                how = "" if other == token else f", but for the case, as {other!r}"
                raise ValueError(
                    f"`word` must be new; the tokenizer has {token!r}{how}. Choose "
                    f"another name than {word!r}."
                )
        if not spell(word).strip() or tokenizer.add_tokens(tokens) != vectors:
            raise ValueError(f"`word` must have letters or signs; got {word!r}.")
        new = self._replace(tokenizer, self.max_length)
        for other in (token.content for token in self._added.values()):
            if new._whole_words.get(other) != self._whole_words.get(other):
                raise ValueError(
                    f"`word` must not be a vector of another one; {other!r} would come "
                    f"to stand for {new._whole_words[other]!r}. Choose another name."
                )
        return new

    def _replace(self, tokenizer: Tokenizer, max_length: int) -> "CLIPTokenizer":
        return CLIPTokenizer(
            tokenizer,
            max_length=max_length,
            pad_token=self.pad_token,
            bos_token=self.bos_token,
            eos_token=self.eos_token,
        )

    def __eq__(self, other: object) -> bool:
        """Compares contents: trees with equal tokenizers have the same structure."""
        if not isinstance(other, CLIPTokenizer):
            return NotImplemented
        return self is other or self._identity() == other._identity()

    def __hash__(self) -> int:
        return self._hash

    def _identity(self):
        ends = self.bos_token, self.eos_token
        return self.to_json(), self.max_length, self._pad_id, *ends

    @property
    def vocab_size(self) -> int:
        """How many rows an embedding must have: one more than the largest id."""
        return self._vocab_size

    @property
    def added_tokens(self) -> Mapping[int, AddedToken]:
        """Tokens that are found before byte pairs are made, by id: special, learned."""
        return self._added

    def token_id(self, token: str) -> int | None:
        """Finds the id of a token; `None` if there is no such token."""
        return self._tokenizer.token_to_id(token)

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
        check_prompts(prompts)
        if self._whole_words:
            prompts = [self._write_out(prompt) for prompt in prompts]
        ids, _ = encode_rows(
            self._tokenizer, prompts, max_length=self.max_length, pad_id=self._pad_id
        )
        return ids

    def _write_out(self, prompt: str) -> str:
        """The prompt with all tokens of learned words in it that have several."""
        prompt = encodable(prompt)
        ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids
        # In the text, as diffusers' `maybe_convert_prompt` does it: only where the word
        # is spelled as it was learned.
        words = [self._added[i].content for i in dict.fromkeys(ids) if i in self._added]
        for word in words:
            prompt = prompt.replace(word, self._whole_words.get(word, word))
        return prompt


def _whole_words(added: Sequence[str]) -> dict[str, str]:
    """All tokens of each learned word that has several, separated by spaces."""
    found = {}
    for word in added:
        tokens = [word]
        while f"{word}_{len(tokens)}" in added:
            tokens.append(f"{word}_{len(tokens)}")
        if len(tokens) > 1:
            found[word] = " ".join(tokens)
    return found


def _as(other: str, word: str) -> str:
    return "" if other == word else f" but for the case of letters, {other!r}"
