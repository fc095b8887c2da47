"""Downloading exactly the files of a model that are used."""

import fnmatch
import pathlib
from collections.abc import Iterable

from ..formats import (
    check_sha256,
    describe_files,
    has_weights,
    ModelFileError,
    weight_kinds,
    weight_patterns,
    WeightKind,
)
from ..sources import hub_sizes, HubFiles, stated_digest
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
# Of these, what every model has.
_NEEDED = (
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
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
        weights without a variant, or else those in float16. Files of PyTorch are
        downloaded of parts that have no safetensors.
    """
    # So small that what is no such model is found before gigabytes are downloaded.
    folder = _snapshot(repo_id, revision, ["model_index.json"], variant)
    check_model_index(read_model_index(folder), repo_id)
    asked, others = weight_kinds(variant), _others(variant)
    patterns = [*_SMALL, "tokenizer/tokenizer.json", *_weights(_STEMS, asked[0])]
    folder = _snapshot(repo_id, revision, patterns, variant)
    _check_small(folder, repo_id, revision, variant)
    lacking = _lacking(folder, _STEMS, asked[0])
    for kind in (*asked[1:], *others):
        if variant is not None and kind == others[0] and len(lacking) == len(_STEMS):
            raise _nothing(repo_id, revision, lacking, f" of the variant {variant!r}")
        if lacking:
            patterns = _weights(lacking, kind)
            folder = _snapshot(repo_id, revision, patterns, variant)
            lacking = _lacking(folder, lacking, kind)
    if lacking:
        raise _nothing(repo_id, revision, lacking, "")
    return folder


def fetch_model(
    repo_id: str, *, revision: str | None = None, variant: str | None = None
) -> dict[str, int]:
    """Downloads what [`draftx.load`][] reads of a model, and checks it.

    **Arguments:**

    - `repo_id`: `"owner/name"`.
    - `revision`, `variant`: As for `draftx.load`.

    **Returns:**

    The files that are used, with their sizes in bytes. One whose digest is not that
    which the hub states is a [`draftx.io.ModelFileError`][].
    """
    folder = download(repo_id, revision, variant)
    there = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = _chosen([path.as_posix() for path in there], variant)[0]
    again = f"`{HubFiles(repo_id, revision, tuple(names)).command} --force-download`"
    for name in names:
        digest = stated_digest(folder / name)
        if digest is not None:
            check_sha256(folder / name, digest, f"{again} gets it again")
    return {name: (folder / name).stat().st_size for name in names}


def model_files(
    repo_id: str, *, revision: str | None = None, variant: str | None = None
) -> tuple[HubFiles, dict[str, int]]:
    """Asks the hub what [`draftx.load`][] would download of a model.

    **Arguments:**

    - `repo_id`, `revision`, `variant`: As for `fetch_model`.

    **Returns:**

    The files, and their sizes in bytes by name.
    """
    sizes = hub_sizes(_all_files(repo_id, revision, variant))
    names, lacking = _chosen(list(sizes), variant)
    if lacking:
        raise _nothing(repo_id, revision, lacking, "")
    files = HubFiles(repo_id, revision, tuple(names))
    return files, {name: sizes[name] for name in names}


def _all_files(repo_id: str, revision: str | None, variant: str | None) -> HubFiles:
    end = "" if variant is None else f".{variant}"
    weights = [f"{part}/{stem}{end}.safetensors" for part, stem in _STEMS.items()]
    return HubFiles(repo_id, revision, (*_SMALL, *weights))


def _command(repo_id: str, revision: str | None, variant: str | None) -> str:
    """What downloads a model into the cache."""
    return _all_files(repo_id, revision, variant).command


def _chosen(names: list[str], variant: str | None) -> tuple[list[str], list[str]]:
    """Which files of a repository are used, and the parts without weights."""
    chosen = [n for n in names if n in (*_SMALL, "tokenizer/tokenizer.json")]
    lacking = [*_STEMS]
    for kind in (*weight_kinds(variant), *_others(variant)):
        patterns = _weights(lacking, kind)
        found = [n for n in names if any(fnmatch.fnmatch(n, p) for p in patterns)]
        chosen += found
        lacking = [p for p in lacking if not any(n.startswith(f"{p}/") for n in found)]
    return sorted(chosen), lacking


def _others(variant: str | None) -> list[WeightKind]:
    """What is read of parts that have not the variant that was asked for."""
    return [] if variant is None else weight_kinds(None)


def _weights(parts: Iterable[str], kind: WeightKind) -> list[str]:
    return [
        f"{part}/{pattern}"
        for part in parts
        for pattern in weight_patterns(_STEMS[part], kind)
    ]


def _lacking(folder: pathlib.Path, parts: Iterable[str], kind: WeightKind) -> list[str]:
    return [p for p in parts if not has_weights(folder / p, _STEMS[p], [kind])]


def _check_small(
    folder: pathlib.Path, repo_id: str, revision: str | None, variant: str | None
) -> None:
    """Raises if a download broke off before all small files were there."""
    words = "tokenizer/vocab.json", "tokenizer/merges.txt"
    if (folder / "tokenizer/tokenizer.json").is_file():
        words = ()
    missing = [n for n in (*_NEEDED, *words) if not (folder / n).is_file()]
    if missing:
        raise ModelFileError(
            f"{repo_id!r} must have {', '.join(missing)}; the copy in {str(folder)!r} "
            f"has not. With a connection, `{_command(repo_id, revision, variant)}` "
            "gets what the hub has."
        )


def _nothing(
    repo_id: str, revision: str | None, parts: list[str], kind: str
) -> ModelFileError:
    """Says that the hub lacks weights of these parts, and what it has instead."""
    import huggingface_hub

    try:
        names = huggingface_hub.list_repo_files(repo_id, revision=revision)
    except Exception:
        return ModelFileError(
            f"{repo_id!r} must have weights{kind} of {', '.join(parts)}; the copy "
            "in the cache has none, and the Hugging Face Hub did not say what it has. "
            f"With a connection, `{_command(repo_id, revision, None)}` gets them."
        )
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
        f"{repo_id!r} on the Hugging Face Hub must have weights{kind} of "
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
        cause = " ".join([f"{type(e).__name__}:", *str(e).split("\n")[:1]])
        raise ModelFileError(
            f"`source` {repo_id!r} is no folder here, and the Hugging Face Hub did not "
            f"give it ({cause}). "
            f"With a connection, `{_command(repo_id, revision, variant)}` gets its "
            'files; `draftx.load("tiny")` needs none.'
        ) from e
    return pathlib.Path(folder)
