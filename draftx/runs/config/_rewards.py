"""Rewards as they are written: a name or a place in a file, perhaps with a weight."""

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ... import rewards
from ..._checks import did_you_mean
from ..._custom_types import Real
from ...rewards import AbstractReward, as_reward, JPEGCompressibility, Negated


# Rewards that need no weights of a network.
_PLAIN: Final[Mapping[str, Callable[[], AbstractReward]]] = {
    "compressibility": JPEGCompressibility,
    "incompressibility": lambda: Negated(JPEGCompressibility()),
}


@dataclasses.dataclass(frozen=True)
class RewardSpec:
    """Holds what `pickscore=10` says: which reward, and how much it counts.

    - `source`: A name, or a place, `file.py:function`.
    - `weight`: What it is multiplied by.
    """

    source: str
    weight: Real

    @property
    def name(self) -> str:
        """What figures of this reward are called."""
        return self.source.rpartition(":")[2] if ":" in self.source else self.source


def reward_names() -> list[str]:
    """Lists the rewards that need no path: by name alone."""
    return [*_PLAIN, *rewards.names()]


def parse_rewards(
    texts: Sequence[str], argument: str = "reward", *, is_measured: bool = False
) -> list[RewardSpec]:
    """Reads rewards with their weights.

    **Arguments:**

    - `texts`: Each `name`, `file.py:function` or `package.module:function`, perhaps
        followed by `=` and a weight, which is 1 if there is none.
    - `argument`: For error texts.
    - `is_measured`: Whether nothing is trained on them: then a weight may be 0, and the
        reward is no part of the score.

    Raises a `ValueError` for a name that is not known or a weight that is no number,
    before anything is loaded.
    """
    specs = [_parse(text, argument, is_measured) for text in texts]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"`{argument}` must name each reward once; got {name!r} "
                f"{names.count(name)} times."
            )
    return specs


def _parse(text: str, argument: str, is_measured: bool) -> RewardSpec:
    source, _, number = text.partition("=")
    weight = 1.0
    if "=" in text:
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight) or (weight == 0 and not is_measured):
            other = "" if is_measured else " other than 0"
            raise ValueError(
                f"`{argument}` must have a finite number{other} after '='; got "
                f"{text!r}."
            )
    known = reward_names()
    if ":" not in source and source not in known:
        raise ValueError(
            f"`{argument}` must be one of {', '.join(known)}, or a function by its "
            f"place, 'file.py:function' or 'package.module:function'; got "
            f"{source!r}.{did_you_mean(source, known)}"
        )
    return RewardSpec(source, weight)


def load_reward(spec: RewardSpec) -> AbstractReward:
    """Loads one reward; its weight is not applied.

    **Arguments:**

    - `spec`: From `parse_rewards`. What stands at a place may be a reward, a class of
        one that needs no arguments, or a function of images, or of images and rows.

    Raises a `ValueError` that names the place.
    """
    if spec.source in _PLAIN:
        return _PLAIN[spec.source]()
    if ":" not in spec.source:
        return rewards.load(spec.source)
    place, _, attribute = spec.source.rpartition(":")
    found = _module(place)
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in dir(found) if not name.startswith("_")]
            near = difflib.get_close_matches(part, public, 3)
            raise ValueError(
                f"`reward` must be something in {place!r}; it has no {part!r}"
                + (f", but {near}." if near else ".")
            )
        found = getattr(found, part)
    if inspect.isclass(found):
        found = found()
    if not callable(found):
        raise ValueError(
            f"`reward` must be a reward or a function of images; {spec.source!r} is "
            f"{found!r}."
        )
    reward: Any = found
    return as_reward(reward)


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ImportError as e:
            raise ValueError(
                f"`reward` must be in a module that can be imported; {place!r}: {e}. "
                "A file is written with its ending, 'folder/file.py:function'."
            ) from e
    path = pathlib.Path(place)
    if not path.is_file():
        raise ValueError(f"`reward` must be in a file; {place!r} is none.")
    name = f"draftx_reward_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # Where dataclasses and pickles of the file look for it.
    sys.modules[name] = module
    # As if it were run: files beside it can be imported.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        specification.loader.exec_module(module)
    except SyntaxError as e:
        raise ValueError(
            f"`reward` must be in a file of Python; line {e.lineno} of {place!r} is "
            f"none: {e.msg}."
        ) from e
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module
