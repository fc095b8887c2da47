"""The prompts of Human Preference Dataset v2, from a folder or from the hub's cache."""

import json
import pathlib
from typing import Final

from ...io import fetch, HubFiles, ModelFileError
from ...rewards import hps_prompts, HPS_STYLES


_REPO: Final = "ymhao/HPDv2"
# Of pairs of images, several of a prompt.
_SPLITS: Final = ("train", "test")
HPDV2_NAMES: Final = ("hpdv2", *(f"hpdv2:{part}" for part in (*HPS_STYLES, *_SPLITS)))


def hpdv2_files(name: str) -> HubFiles:
    """Names the files of the hub that have some of the prompts.

    **Arguments:**

    - `name`: One of `HPDV2_NAMES`.
    """
    part = name.partition(":")[2]
    if part in _SPLITS:
        return HubFiles(_REPO, None, (f"{part}.json",), repo_type="dataset")
    files = tuple(f"benchmark/{style}.json" for style in HPS_STYLES)
    return HubFiles(_REPO, None, files, repo_type="dataset")


def find_hpdv2(source: str) -> list[str] | None:
    """Reads prompts of the data set; `None` if something else is meant.

    **Arguments:**

    - `source`: One of `HPDV2_NAMES`, or a folder that holds the data set in place of
        `hpdv2`. Without a part it is the benchmark, 3,200 prompts; a style is 800 of
        them, and `train` and `test` are those that people compared images of, each
        once.

    Raises a `ValueError` for a part that there is not, and a
    [`draftx.io.ModelFileError`][] with the command that gets the files.
    """
    place, _, part = source.rpartition(":") if ":" in source else (source, "", "")
    if pathlib.Path(source).is_dir():
        place, part = source, ""
    is_folder = pathlib.Path(place).is_dir()
    if not is_folder and place != "hpdv2":
        return None
    parts = (*HPS_STYLES, *_SPLITS)
    if part not in ("", *parts):
        raise ValueError(
            f"`prompts` must be {place!r} or one of its parts, "
            f"{', '.join(f'{place}:{known}' for known in parts)}; got {source!r}."
        )
    folder = pathlib.Path(place)
    if not is_folder:
        try:
            (folder,) = fetch([hpdv2_files(f"hpdv2:{part}")], f"the prompts {source!r}")
        except ModelFileError as e:
            raise ModelFileError(f"{e} So does `draftx fetch {source}`.") from e
    elif (folder / "benchmark").is_dir() and part not in _SPLITS:
        folder = folder / "benchmark"
    if part in _SPLITS:
        return _compared(folder / f"{part}.json")
    prompts = hps_prompts(folder)
    return (
        prompts[part] if part else [p for style in HPS_STYLES for p in prompts[style]]
    )


def _compared(path: pathlib.Path) -> list[str]:
    try:
        rows = json.loads(path.read_text("utf-8"))
        prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    except FileNotFoundError as e:
        command = hpdv2_files(f"hpdv2:{path.stem}").command
        raise ModelFileError(
            f"{str(path)!r} is missing. With a connection, `{command} --local-dir "
            f"{path.parent}` gets it."
        ) from e
    except (OSError, ValueError, RecursionError, TypeError, KeyError) as e:
        raise ModelFileError(
            f"{str(path)!r} must be a JSON list of objects with 'prompt'; it is not: "
            f"{type(e).__name__}: {e}."
        ) from e
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise ModelFileError(f"{str(path)!r} must hold prompts, which are texts.")
    return prompts
