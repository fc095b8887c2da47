"""`draftx fetch`: base models and rewards, downloaded ahead and checked."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from ... import rewards
from ..._checks import did_you_mean
from ...io import (
    EMBEDDED_MODELS,
    fetch,
    fetch_model,
    hub_sizes,
    HubFiles,
    is_repo_id,
    model_files,
)
from .._busy import Busy
from ..config import hpdv2_files, HPDV2_NAMES, reward_names
from ._options import parse
from ._outputs import size_text


_arg = tyro.conf.arg


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """Downloads base models, published rewards and prompts into the hub's cache.

    Exactly the files that training and sampling read, each checked by its SHA-256 where
    it is known. After that nothing needs a connection.
    """

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        _arg(
            metavar="NAME",
            help="Rewards by name, such as clip or pickscore, prompts, such as hpdv2, "
            "and models by the hub's name, such as CompVis/stable-diffusion-v1-4.",
        ),
    ]
    dry_run: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        _arg(help="Only says which files there are, and how large they are."),
    ] = False
    revision: Annotated[
        str | None, _arg(help="Of the models: a branch, tag or commit.")
    ] = None
    variant: Annotated[
        str | None, _arg(help="Of the models' files of weights, such as fp16.")
    ] = None


def fetch_command(arguments: Sequence[str]) -> int:
    """Runs `draftx fetch`; gives its exit code.

    **Arguments:**

    - `arguments`: Of the command line.
    """
    options = parse(FetchOptions, arguments, "fetch")
    if not options.names:
        raise ValueError(
            f"`names` must name at least one reward or model; got none. Rewards are "
            f"{', '.join(rewards.names())}."
        )
    names = [*dict.fromkeys(options.names)]
    for name in names:
        _check_known(name)
    of_names: list[HubFiles] = []
    for name in names:
        if name in rewards.names():
            of_names += [f for f in _files(name) if f not in of_names]
        elif name in HPDV2_NAMES:
            of_names += [] if (f := hpdv2_files(name)) in of_names else [f]
        elif not is_repo_id(name):
            print(f"{name}: comes with draftx")
    models = [name for name in names if is_repo_id(name)]
    how: dict[str, Any] = {"revision": options.revision, "variant": options.variant}
    if options.dry_run:
        total = sum(_show(files, hub_sizes(files)) for files in of_names)
        total += sum(_show(*model_files(model, **how)) for model in models)
        print(f"to download: {size_text(total)}")
        return 0
    if of_names:
        what = ", ".join(n for n in names if n in rewards.names() or n in HPDV2_NAMES)
        with Busy(f"fetching and checking {what}"):
            folders = fetch(of_names, what)
        for files, folder in zip(of_names, folders, strict=True):
            paths = {name: folder / pathlib.Path(name).name for name in files.names}
            _report(files.repo_id, {n: p.stat().st_size for n, p in paths.items()})
    for model in models:
        with Busy(f"fetching and checking {model}"):
            sizes = fetch_model(model, **how)
        _report(model, sizes)
    return 0


def _check_known(name: str) -> None:
    known = [*reward_names(), *HPDV2_NAMES, *EMBEDDED_MODELS]
    if name in known or is_repo_id(name):
        return
    raise ValueError(
        f"`names` must be of rewards, {', '.join(rewards.names())}, of prompts, "
        f"{', '.join(HPDV2_NAMES)}, or the hub's names of models, 'owner/name'; got "
        f"{name!r}.{did_you_mean(name, known)}"
    )


def _files(name: str) -> list[HubFiles]:
    """The files of a reward that the hub has; others are there, or an error says how
    to get them."""
    entry = rewards.published(name)
    wanted = [entry.files, entry.encoder]
    wanted += [] if entry.tokenizer is None else [entry.tokenizer.files]
    of_hub = []
    for files in wanted:
        if isinstance(files, HubFiles):
            of_hub.append(files)
        elif files is not None:
            print(f"{name}: {files.find(f'the reward {name!r}')} is here")
            # Whose tokenizer is beside the weights.
            break
    return of_hub


def _show(files: HubFiles, sizes: dict[str, int]) -> int:
    """Prints the files of a repository; gives the bytes that are not here yet."""
    import huggingface_hub

    missing = 0
    at = "" if files.revision is None else f" @ {files.revision[:12]}"
    print(f"{files.repo_id}{at}")
    for name in files.names:
        path = huggingface_hub.try_to_load_from_cache(
            files.repo_id, name, revision=files.revision, repo_type=files.repo_type
        )
        is_here = isinstance(path, str)
        size = sizes.get(name, 0)
        missing += 0 if is_here else size
        print(f"  {size_text(size):>9}  {name}{', here already' if is_here else ''}")
    return missing


def _report(repo_id: str, sizes: dict[str, int]) -> None:
    total = size_text(sum(sizes.values()))
    print(f"{repo_id}: {total} in {len(sizes)} files, here and checked")
