"""A finished run on the Hugging Face Hub: its adapter, and what tells of it."""

import os
import pathlib
import shlex
import warnings
from typing import Final

from ..._signals import EXIT_CODES
from ...finetuning import FinetuneResult
from .._busy import Busy
from ..config import RunConfig
from ..folder import open_run, RunFolder


# What was asked to end is not to begin with something else.
_SIGNALS: Final = [number.name for number in EXIT_CODES]


class PushError(ValueError):
    """Says that the hub did not take a run, and why."""


def push(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Uploads a run to the Hugging Face Hub, as one commit.

    The adapter in both formats, the model card, the configuration, the versions, the
    curves, and the last picture of samples; a repository that is not there is made.

    **Arguments:**

    - `folder`: Of the run, which must have ended.
    - `repo_id`: `account/name`, or a name in the account of the token.
    - `private`: Whether a new repository is.
    - `token`: `None` is that of the environment, or of `hf auth login`.

    **Returns:**

    The address of the repository.

    Raises a `ValueError` or a [`draftx.io.ModelFileError`][] for arguments that cannot
    be, and a `PushError` if the hub did not take it; trying again does no harm.
    """
    check_repo_id("repo_id", repo_id)
    run = open_run(folder).folder
    for path in (run.lora, run.card):
        if not path.is_file():
            raise ValueError(
                f"`folder` must be of a run that has ended; {str(folder)!r} has no "
                f"{path.name}. `draftx train` with the same options goes on."
            )
    import huggingface_hub

    try:
        hub = huggingface_hub.HfApi(token=token)
        # What an account has by default, unless it is to be private.
        visible = True if private else None
        repo = hub.create_repo(repo_id, private=visible, exist_ok=True)
        hub.upload_folder(
            repo_id=repo.repo_id,
            folder_path=run.path,
            allow_patterns=_files(run),
            commit_message="Upload of draftx",
        )
    # What is raised depends on the version and on the HTTP client that it uses.
    except Exception as e:
        raise PushError(
            f"The Hugging Face Hub did not take {str(folder)!r} as {repo_id!r} "
            f"({_cause(e)}). The folder is as it was. When it is mended, "
            f"`{_command(folder, repo_id, private)}` tries again."
        ) from e
    return str(repo)


def _files(run: RunFolder) -> list[str]:
    """What is uploaded, relative to the folder."""
    card = run.card.read_text("utf-8")
    pictures = sorted(run.samples(0).parent.glob("step-*.png"))
    # That of the adapter that was kept; the last, where the card shows none.
    shown = [p for p in pictures if p.relative_to(run.path).as_posix() in card]
    pictures = (shown or pictures)[-1:]
    paths = [run.lora, run.lora_kohya, run.card, run.config, run.versions, run.curves]
    paths += [*pictures, run.scales, run.scales_picture]
    return [p.relative_to(run.path).as_posix() for p in paths if p.is_file()]


def _cause(error: Exception) -> str:
    return " ".join([f"{type(error).__name__}:", *str(error).split("\n")[:1]])


def _command(folder: str | os.PathLike, repo_id: str, private: bool) -> str:
    more = ["--private"] if private else []
    return shlex.join(["draftx", "push", str(folder), "--repo-id", repo_id, *more])


def check_repo_id(argument: str, repo_id: str) -> None:
    """Raises a `ValueError` that names `argument` unless `repo_id` can be one."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as e:
        raise ValueError(
            f"`{argument}` must be the name of a repository of the hub, account/name; "
            f"got {repo_id!r}: {str(e).splitlines()[0]}"
        ) from None


def check_push(config: RunConfig) -> None:
    """Raises a `ValueError` if the run of a `config` could not be uploaded.

    Its name and whether there is a token: what can be known without a connection.
    """
    if not config.push_to_hub:
        return
    check_repo_id("hub_model_id", _repo_id(config))
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        raise ValueError(
            "`push_to_hub` must be left out without a token of the hub; there is none. "
            "Set HF_TOKEN, or call `hf auth login`."
        )


def _repo_id(config: RunConfig) -> str:
    if config.hub_model_id is not None:
        return config.hub_model_id
    return pathlib.Path(config.output_dir).resolve().name


def push_if_asked(config: RunConfig, folder: RunFolder, result: FinetuneResult) -> None:
    """Uploads what a run has left, if its configuration says so.

    Nothing is lost if that fails: a warning says how to try again.

    **Arguments:**

    - `config`, `folder`, `result`: Of the run; one that a signal has ended is not
        uploaded.
    """
    if not config.push_to_hub or result.stopped in _SIGNALS:
        return
    repo_id = _repo_id(config)
    try:
        with Busy(f"uploading to {repo_id}"):
            push(folder.path, repo_id, private=config.hub_private_repo)
    except Exception as error:
        again = _command(folder.path, repo_id, config.hub_private_repo)
        text = str(error)
        if again not in text:
            text = f"{text} `{again}` tries again."
        warnings.warn(
            f"`push_to_hub` failed, and the run is as it would be without: {text}",
            stacklevel=2,
        )
