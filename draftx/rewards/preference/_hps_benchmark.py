"""The benchmark of Human Preference Score v2: 3,200 prompts in four styles."""

import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import numpy as np

from ..._checks import check_whole
from ..._custom_types import Images, WholeLike
from ...io import fetch, HubFiles, ModelFileError
from ..contract import as_reward, Reward


HPS_STYLES = ("anime", "concept-art", "paintings", "photo")
_PROMPTS, _GROUP = 800, 80
_FILES = HubFiles(
    "ymhao/HPDv2",
    None,
    tuple(f"benchmark/{style}.json" for style in HPS_STYLES),
    repo_type="dataset",
)


class HPSResult(NamedTuple):
    """Holds what the benchmark says of one style, in percent as its authors print it.

    - `mean`: Of the scores of all images.
    - `std`: Of the means of ten groups of 80 images; they are not drawn at random.
    """

    mean: float
    std: float


def hps_prompts(folder: str | os.PathLike | None = None) -> dict[str, list[str]]:
    """Reads the prompts of the benchmark: 800 for each of `draftx.rewards.HPS_STYLES`.

    **Arguments:**

    - `folder`: Has `anime.json`, `concept-art.json`, `paintings.json` and `photo.json`,
        a list of strings each. `None` downloads them from the data set `ymhao/HPDv2`
        (Apache-2.0).

    **Returns:**

    The prompts of each style, in the order in which they are grouped.
    """
    if folder is None:
        (path,) = fetch([_FILES], "the HPSv2 benchmark")
    else:
        path = pathlib.Path(folder)
    return {style: _read(path / f"{style}.json") for style in HPS_STYLES}


def hps_benchmark(
    reward: Reward,
    draw: Callable[[list[str]], Images],
    prompts: Mapping[str, Sequence[str]] | None = None,
    *,
    batch_size: WholeLike = 8,
) -> dict[str, HPSResult]:
    """Scores a model as the HPSv2 benchmark does: one image for each prompt.

        pipeline = draftx.load("CompVis/stable-diffusion-v1-4")
        draw = lambda prompts: draftx.sample(pipeline, prompts, key=next(keys))
        hps_benchmark(draftx.rewards.load("hpsv2"), draw)

    **Arguments:**

    - `reward`: [`draftx.rewards.HPSv2`][], of the version that is to be compared with.
    - `draw`: Gives an image for every prompt of a batch. The authors score images that
        were saved as JPEG files, which changes scores a little.
    - `prompts`: As from [`draftx.rewards.hps_prompts`][], which is what `None` takes;
        some of its styles will do.
    - `batch_size`: Prompts that `draw` is given at a time; must divide 800.

    **Returns:**

    The result of each style. The authors' figure for a whole model is the mean of the
    four means.

    ??? cite

        [Human Preference Score v2](https://arxiv.org/abs/2306.09341), section 5.
    """
    prompts = hps_prompts() if prompts is None else prompts
    _check_prompts(prompts)
    batch_size = check_whole("batch_size", batch_size)
    if _PROMPTS % batch_size:
        raise ValueError(
            f"`batch_size` must divide {_PROMPTS}, the prompts of a style; got "
            f"{batch_size}."
        )
    reward = as_reward(reward)
    score = eqx.filter_jit(lambda reward, images, features: reward(images, features))
    results = {}
    for style, words in prompts.items():
        scores = []
        for start in range(0, _PROMPTS, batch_size):
            batch = list(words[start : start + batch_size])
            images = draw(batch)
            if len(images) != batch_size:
                raise ValueError(
                    "`draw` must give one image for each prompt; got "
                    f"{len(images)} for {batch_size}."
                )
            scores.append(np.asarray(score(reward, images, reward.prepare(batch))))
        results[style] = hps_result(np.concatenate(scores))
    return results


def hps_result(scores: np.ndarray) -> HPSResult:
    """Computes the mean of 800 scores and the deviation of the means of ten groups.

    **Arguments:**

    - `scores`: Of one style, in the order of its prompts; cosines.
    """
    if np.shape(scores) != (_PROMPTS,):
        raise ValueError(
            f"`scores` must be the {_PROMPTS} of one style; got the shape "
            f"{np.shape(scores)}."
        )
    groups = 100 * np.asarray(scores, np.float64).reshape(-1, _GROUP).mean(axis=1)
    return HPSResult(float(groups.mean()), float(groups.std()))


def _read(path: pathlib.Path) -> list[str]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as e:
        raise ModelFileError(
            f"{str(path)!r} is missing. With a connection, `{_FILES.command}` gets the "
            "prompts; they go into one folder."
        ) from e
    except (OSError, ValueError, RecursionError) as e:
        raise ModelFileError(f"{str(path)!r} cannot be read as JSON: {e}.") from e
    is_list = isinstance(content, list)
    if not is_list or not all(isinstance(prompt, str) for prompt in content):
        raise ModelFileError(f"{str(path)!r} must hold a list of strings.")
    if len(content) != _PROMPTS:
        raise ModelFileError(
            f"{str(path)!r} must hold {_PROMPTS} prompts; it holds {len(content)}. The "
            "prompts of the benchmark are not those of the test set."
        )
    return content


def _check_prompts(prompts: Mapping[str, Sequence[str]]) -> None:
    unknown = [style for style in prompts if style not in HPS_STYLES]
    if unknown or not prompts:
        raise ValueError(
            f"`prompts` must have styles among {HPS_STYLES}; got {list(prompts)}."
        )
    wrong = {style: len(p) for style, p in prompts.items() if len(p) != _PROMPTS}
    if wrong:
        raise ValueError(
            f"`prompts` must have {_PROMPTS} for each style; got {wrong}. Fewer give "
            "figures that are not those of the benchmark."
        )
