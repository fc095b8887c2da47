"""What the files of a tokenizer's folder say, where several of them say something.

The order is that of transformers, `PreTrainedTokenizerBase.from_pretrained` and
`CLIPTokenizer` of 4.34 to 5.24: `tokenizer.json` has the vocabulary where it is there;
`added_tokens_decoder` of `tokenizer_config.json` has all added tokens; without it
`special_tokens_map.json` stands above `tokenizer_config.json`, and added tokens are
those of `added_tokens.json` and then of `tokenizer.json`.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import AddedToken, models


Token = str | AddedToken

START, END = "<|startoftext|>", "<|endoftext|>"
# By name: what every CLIP has.
SPECIAL_TOKENS: dict[str, Token] = dict(
    bos_token=START, eos_token=END, unk_token=END, pad_token=END
)
# In the order in which those that no vocabulary has get their ids.
_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_LENGTH = 77
# What would make other ids of the same prompt, by the value that CLIP has.
_FIXED = dict(padding_side="right", truncation_side="right", split_special_tokens=False)


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """Holds what a folder says of a tokenizer.

    **Arguments:**

    - `vocab`, `merges`: Of the byte pairs.
    - `special`: Special tokens by name, `bos_token` and so on.
    - `added`: Tokens that are found before byte pairs are made, by id.
    - `extra`: Special tokens without a name.
    - `max_length`: Tokens in a row.
    """

    vocab: Mapping[str, int]
    merges: list[tuple[str, str]]
    special: Mapping[str, Token]
    added: Mapping[int, AddedToken]
    extra: list[Token]
    max_length: int

    def all_added(self) -> list[AddedToken]:
        """Lists every added token in the order of being added, which gives ids.

        One that is said twice, with and without flags, is listed twice: the second
        time counts.
        """
        tokens: list[Token] = [token for _, token in sorted(self.added.items())]
        known = {str(token) for token in tokens}
        for token in (*self.special.values(), *self.extra):
            if str(token) not in known and token not in tokens:
                tokens.append(token)
        named = {str(token) for token in self.special.values()}
        return [_special(t) if isinstance(t, str) else _flag(t, named) for t in tokens]


def read_tokenizer_folder(folder: pathlib.Path) -> TokenizerFiles:
    """Reads what a folder says; what cannot be followed is a `ValueError`.

    **Arguments:**

    - `folder`: Has `vocab.json` and `merges.txt`, or `tokenizer.json`.
    """
    config = _read_json(folder / "tokenizer_config.json")
    whole = _read_json(folder / "tokenizer.json")
    vocab, merges = _vocabulary(folder, whole)
    tokens = {key: _token(value) for key, value in config.items() if _is_name(key)}
    extra = config.get("extra_special_tokens") or config.get(
        "additional_special_tokens"
    )
    extra = [_token(token) for token in _as_list(extra)]
    if "added_tokens_decoder" in config:
        listed = _object(config["added_tokens_decoder"], "`added_tokens_decoder`")
        added = _by_id((int(i), _flagged(token, False)) for i, token in listed.items())
    else:
        above = _read_json(folder / "special_tokens_map.json")
        # Names that only some models have are taken from the first file alone.
        own = {k for k, x in tokens.items() if k not in _NAMES and isinstance(x, str)}
        tokens |= {
            key: _token(value)
            for key, value in above.items()
            if _is_name(key) and key not in own
        }
        more = [_token(token) for token in _as_list(above.get("extra_special_tokens"))]
        extra += [token for token in more if token not in extra]
        if not extra:
            listed = _as_list(above.get("additional_special_tokens"))
            extra = [_token(token) for token in listed]
        added = _added_before(
            folder, whole, {str(t) for t in (*tokens.values(), *extra)}
        )
    _check_fixed(config, whole)
    flagged = {str(token): token for token in added.values()}
    special = SPECIAL_TOKENS | tokens
    wrong = [name for name in SPECIAL_TOKENS if special[name] is None]
    if wrong:
        raise ValueError(
            f"`{wrong[0]}` must name a token; the files of {str(folder)!r} say null. "
            f'Write a token there, as "{END}".'
        )
    names = [*_NAMES, *(name for name in special if name not in _NAMES)]
    return TokenizerFiles(
        vocab=vocab,
        merges=merges,
        special={
            name: flagged.get(str(special[name]), special[name])
            for name in names
            if special.get(name) is not None
        },
        added=added,
        extra=extra,
        max_length=_max_length(config),
    )


def _added_before(
    folder: pathlib.Path, whole: Mapping[str, Any], special: set[str]
) -> dict[int, AddedToken]:
    """Added tokens as older files have them, and as `tokenizer.json` has them."""
    listed = _read_json(folder / "added_tokens.json")
    items = []
    for content, i in listed.items():
        is_special = content in special
        token = AddedToken(content, normalized=not is_special, special=is_special)
        items.append((i, token))
    added = whole.get("added_tokens") or ()
    later = [(token["id"], _flagged(token, False)) for token in added]
    _by_id([*items, *later])
    return dict(items) | dict(later)


def _vocabulary(
    folder: pathlib.Path, whole: Mapping[str, Any]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    files = folder / "vocab.json", folder / "merges.txt"
    if whole:
        model = whole.get("model", {})
        if not {"vocab", "merges"} <= set(model):
            raise ValueError(
                f"{str(folder / 'tokenizer.json')!r} must hold byte pairs, `vocab` and "
                f"`merges`; its model is {model.get('type')!r}."
            )
        # Older versions of `tokenizers` write a merge as one string.
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        vocab, merges = dict(model["vocab"]), [(str(a), str(b)) for a, b in pairs]
    elif all(path.is_file() for path in files):
        vocab, merges = models.BPE.read_file(*map(str, files))
    else:
        raise FileNotFoundError(
            "`folder` must hold `vocab.json` and `merges.txt`, or `tokenizer.json`; "
            f"got {str(folder)!r}, which holds neither."
        )
    if len(set(vocab.values())) != len(vocab):
        _by_id((i, AddedToken(content)) for content, i in vocab.items())
    return vocab, merges


def _by_id(items: Iterable[tuple[int, AddedToken]]) -> dict[int, AddedToken]:
    found: dict[int, AddedToken] = {}
    for i, token in items:
        other = found.setdefault(i, token)
        if str(other) != str(token):
            one, two = sorted((str(other), str(token)))
            raise ValueError(
                f"Tokens must have one id each; {one!r} and {two!r} both have {i}."
            )
    return found


def _token(value: Any) -> Any:
    """A special token as files write it: a string, or an object with its flags."""
    if isinstance(value, Mapping):
        return _flagged(value, "__type" not in value)
    if value is not None and not isinstance(value, str):
        raise ValueError(
            f"A token must be a string, or an object with `content`; got {value!r}."
        )
    return value


def _flagged(value: Any, special: bool) -> AddedToken:
    """**Arguments:**

    - `value`: An object with `content` and flags.
    - `special`: What it is unless it says so.
    """
    fields: dict[str, Any] = {"special": special} | _object(value, "An added token")
    return AddedToken(**{k: x for k, x in fields.items() if k not in ("__type", "id")})


def _special(content: str) -> AddedToken:
    return AddedToken(content, normalized=False, special=True)


def _flag(token: AddedToken, named: set[str]) -> AddedToken:
    if str(token) in named:
        token.special = True
    return token


def _is_name(key: str) -> bool:
    # `add_bos_token` and the like say whether, not which.
    return key.endswith("_token") and not key.startswith("add_")


def _as_list(value: Any) -> list[Any]:
    return list(value.values() if isinstance(value, Mapping) else value or ())


def _check_fixed(config: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
    said = dict(config)
    for key, part in (("padding_side", "padding"), ("truncation_side", "truncation")):
        if whole.get(part):
            said.setdefault(key, whole[part].get("direction", "Right").lower())
    for key, value in _FIXED.items():
        if said.get(key, value) != value:
            raise ValueError(
                f"`{key}` of a CLIP tokenizer must be {value!r}; got {said[key]!r}, "
                "which is not implemented. It makes other ids of every prompt; remove "
                "it if the model was not trained so."
            )


def _max_length(config: Mapping[str, Any]) -> int:
    length = config.get("model_max_length", config.get("max_len"))
    # Some files carry a sentinel of 1e30 for "no limit".
    return _LENGTH if not isinstance(length, int) or length > 10_000 else length


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return _object(json.loads(path.read_text("utf-8")), repr(path.name))


def _object(content: Any, what: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(
            f"{what} must hold a JSON object; got a {type(content).__name__}."
        )
    return content
