"""A tokenizer as the files that transformers' `CLIPTokenizer` reads and writes."""

import json
import pathlib

from ...models import CLIPTextModel, CLIPTokenizer
from ..formats import first_five, ModelFileError, write_json, write_text


def load_tokenizer(folder: pathlib.Path) -> CLIPTokenizer:
    """Reads a tokenizer from its `folder`; a wrong file is a `ModelFileError`."""
    try:
        return CLIPTokenizer.from_folder(folder)
    # The library behind it raises bare `Exception`s.
    except Exception as e:
        raise ModelFileError(f"{str(folder)!r} holds no CLIP tokenizer: {e}") from e


def check_tokenizer(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, name: str
) -> None:
    """Raises unless the text encoder takes what the tokenizer gives.

    More rows than ids are fine: some embeddings are padded to a round number.
    """
    config = text_encoder.config
    unknown = {
        token.content: i
        for i, token in tokenizer.added_tokens.items()
        if i >= config.vocab_size
    }
    if unknown:
        raise ModelFileError(
            f"The tokenizer of {name!r} must fit the text encoder, whose "
            f"embedding has {config.vocab_size} rows; these added tokens have no row: "
            f"{first_five(f'{token!r} ({i})' for token, i in unknown.items())}. Take "
            "both folders from the same model; words learned in a file of their own "
            "are added with `draftx.load_embedding`."
        )
    pairs = (
        ("ids", tokenizer.vocab_size, config.vocab_size),
        ("tokens a prompt", tokenizer.max_length, config.max_position_embeddings),
    )
    for what, got, most in pairs:
        if got > most:
            raise ModelFileError(
                f"The tokenizer of {name!r} must fit the text encoder; it gives "
                f"{got} {what}, and the text encoder takes {most}."
            )


def save_tokenizer(tokenizer: CLIPTokenizer, folder: pathlib.Path) -> dict[str, int]:
    """**Returns:**

    The ids of the special tokens, as the text encoder's config names them.
    """
    whole = json.loads(tokenizer.to_json())
    vocab = dict(sorted(whole["model"]["vocab"].items(), key=lambda item: item[1]))
    # Older versions of `tokenizers` write a merge as one string.
    merges = [
        m if isinstance(m, str) else " ".join(m) for m in whole["model"]["merges"]
    ]
    special = dict(
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        unk_token=whole["model"].get("unk_token") or tokenizer.eos_token,
    )
    added = {str(token.pop("id")): token for token in whole["added_tokens"]}
    config = special | dict(
        add_prefix_space=False,
        added_tokens_decoder=added,
        do_lower_case=True,
        errors="replace",
        model_max_length=tokenizer.max_length,
        tokenizer_class="CLIPTokenizer",
    )
    write_text(folder / "vocab.json", json.dumps(vocab, ensure_ascii=False) + "\n")
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", config)
    learned = {
        token["content"]: int(i)
        for i, token in added.items()
        if token["content"] not in vocab
    }
    if learned:
        # For versions of transformers before 4.34; later ones read the config's.
        write_json(folder / "added_tokens.json", learned)
    names = ("bos_token", "eos_token", "pad_token")
    ids = {f"{name}_id": tokenizer.token_id(special[name]) for name in names}
    return {name: i for name, i in ids.items() if i is not None}
