"""Downloading exactly the files of a model that are used."""

import pathlib
from collections.abc import Iterable

from ..formats import describe_files, has_weights, ModelFileError, weight_patterns
from ._components import weights_stem
from ._folder import check_model_index, NETWORKS, read_model_index


_SMALL = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/added_tokens.json",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "vae/config.json",
)
_STEMS = {part: weights_stem(cls) for part, cls in NETWORKS.items()}


def download(
    repo_id: str, revision: str | None, variant: str | None = None
) -> pathlib.Path:
    """A folder with the files of a model on the Hugging Face Hub, cached.

    **Arguments:**

    - `repo_id`: `"owner/name"`.
    - `revision`: A branch, tag or commit; the main branch if `None`.
    - `variant`: Of the weights; parts without it are downloaded without. `None` are the
        weights without a variant, or else those in float16.
    """
    # So small that what is no such model is found before gigabytes are downloaded.
    folder = _snapshot(repo_id, revision, ["model_index.json"], variant)
    check_model_index(read_model_index(folder), repo_id)
    patterns = [*_SMALL, "tokenizer/tokenizer.json", *_weights(_STEMS, variant)]
    folder = _snapshot(repo_id, revision, patterns, variant)
    lacking = _lacking(folder, _STEMS, variant)
    if variant is not None and len(lacking) == len(_STEMS):
        raise _nothing(repo_id, revision, lacking, f" of the variant {variant!r}")
    for other in ("fp16",) if variant is None else (None, "fp16"):
        if lacking:
            patterns = _weights(lacking, other)
            folder = _snapshot(repo_id, revision, patterns, variant)
            lacking = _lacking(folder, lacking, other)
    if lacking:
        raise _nothing(repo_id, revision, lacking, "")
    return folder


def _weights(parts: Iterable[str], variant: str | None) -> list[str]:
    return [
        f"{part}/{pattern}"
        for part in parts
        for pattern in weight_patterns(_STEMS[part], variant)
    ]


def _lacking(
    folder: pathlib.Path, parts: Iterable[str], variant: str | None
) -> list[str]:
    return [p for p in parts if not has_weights(folder / p, _STEMS[p], variant)]


def _nothing(
    repo_id: str, revision: str | None, parts: list[str], kind: str
) -> ModelFileError:
    """Says that the hub lacks weights of these parts, and what it has instead."""
    import huggingface_hub

    try:
        names = huggingface_hub.list_repo_files(repo_id, revision=revision)
    # Without a list the error is still true.
    except Exception:
        names = []
    texts = [
        f" Of {part}:{text}"
        for part in parts
        if (
            text := describe_files(
                [n.removeprefix(f"{part}/") for n in names if n.startswith(f"{part}/")],
                _STEMS[part],
            )
        )
    ]
    return ModelFileError(
        f"{repo_id!r} on the Hugging Face Hub must have safetensors{kind} of "
        f"{', '.join(parts)}; it has none.{''.join(texts)}"
    )


def _snapshot(
    repo_id: str, revision: str | None, patterns: list[str], variant: str | None
) -> pathlib.Path:
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            repo_id, revision=revision, allow_patterns=patterns
        )
    # What is raised depends on the version and on the HTTP client that it uses.
    except Exception as e:
        at = "" if revision is None else f" --revision {revision}"
        end = "" if variant is None else f".{variant}"
        weights = [f"{part}/{stem}{end}.safetensors" for part, stem in _STEMS.items()]
        files = " ".join([*_SMALL, *weights])
        cause = " ".join([f"{type(e).__name__}:", *str(e).split("\n")[:1]])
        raise ModelFileError(
            f"`source` {repo_id!r} is no folder here, and the Hugging Face Hub did not "
            f"give it ({cause}). "
            f"With a connection, `hf download {repo_id}{at} {files}` gets its "
            'files; `draftx.load("tiny")` needs none.'
        ) from e
    return pathlib.Path(folder)
