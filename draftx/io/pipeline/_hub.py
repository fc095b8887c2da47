"""Downloading exactly the files of a model that are used."""

import pathlib

from ..formats import ModelFileError
from ._folder import check_model_index, read_model_index


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
_STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}


def download(repo_id: str, revision: str | None) -> pathlib.Path:
    """A folder with the files of a model on the Hugging Face Hub, cached.

    **Arguments:**

    - `repo_id`: `"owner/name"`.
    - `revision`: A branch, tag or commit; the main branch if `None`.
    """
    # So small that what is no such model is found before gigabytes are downloaded.
    folder = _snapshot(repo_id, revision, ["model_index.json"])
    check_model_index(read_model_index(folder), repo_id)
    folder = _snapshot(
        repo_id, revision, [*_SMALL, "tokenizer/tokenizer.json", *_weights("")]
    )
    lacking = [
        part for part in _STEMS if not any((folder / part).glob("*.safetensors"))
    ]
    if lacking:
        patterns = [p for p in _weights(".fp16") if p.split("/")[0] in lacking]
        folder = _snapshot(repo_id, revision, patterns)
    return folder


def _weights(variant: str) -> list[str]:
    return [
        f"{part}/{stem}{name}"
        for part, stem in _STEMS.items()
        for name in (
            f"{variant}.safetensors",
            f"{variant}-?????-of-?????.safetensors",
            f".safetensors.index{variant}.json",
        )
    ]


def _snapshot(repo_id: str, revision: str | None, patterns: list[str]) -> pathlib.Path:
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            repo_id, revision=revision, allow_patterns=patterns
        )
    # What is raised depends on the version and on the HTTP client that it uses.
    except Exception as e:
        at = "" if revision is None else f" --revision {revision}"
        files = " ".join([*_SMALL, *_weights("")[::3]])
        cause = " ".join([f"{type(e).__name__}:", *str(e).split("\n")[:1]])
        raise ModelFileError(
            f"`source` {repo_id!r} is no folder here, and the Hugging Face Hub did not "
            f"give it ({cause}). "
            f"With a connection, `hf download {repo_id}{at} {files}` gets its "
            'files; `draftx.load("tiny")` needs none.'
        ) from e
    return pathlib.Path(folder)
