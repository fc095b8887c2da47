"""The gradient estimators by the names that a configuration gives them."""

from collections.abc import Callable
from typing import Any, Final

from ..finetuning import (
    AbstractGradientEstimator,
    AlignProp,
    DRaFT,
    DRaFTLV,
    DRTune,
    ReFL,
    ScoreFunction,
    SingleRewardLV,
)
from ._signatures import plain_parameters


METHODS: Final[dict[str, Callable[..., AbstractGradientEstimator]]] = {
    "draft": DRaFT,
    "draft-lv": DRaFTLV,
    "single-reward-lv": SingleRewardLV,
    "refl": ReFL,
    "alignprop": AlignProp,
    "drtune": DRTune,
    "score-function": ScoreFunction,
}


def make_method(name: str, options: dict[str, Any]) -> AbstractGradientEstimator:
    """Makes an estimator of a section of a configuration.

    **Arguments:**

    - `name`: One of `METHODS`.
    - `options`: Of all estimators; `None` is the default of the one that is named.

    Raises a `ValueError` for an option that this one does not have.
    """
    if name not in METHODS:
        raise ValueError(
            f"`method.name` must be one of {', '.join(METHODS)}; got {name!r}."
        )
    given = {key: value for key, value in options.items() if value is not None}
    known = [parameter for parameter, *_ in plain_parameters(METHODS[name])]
    for key in given:
        if key not in known:
            raise ValueError(
                f"`method.{key}` must be left out for {name!r}, whose options are "
                f"{', '.join(known)}; got {given[key]!r}."
            )
    return METHODS[name](**given)
