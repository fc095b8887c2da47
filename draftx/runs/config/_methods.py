"""The methods of training by the names that a configuration gives them."""

from collections.abc import Callable
from typing import Any, Final

from ...finetuning import (
    AbstractGradientEstimator,
    AbstractRoundMethod,
    AlignProp,
    DDPO,
    DPG,
    DRaFT,
    DRaFTLV,
    DRTune,
    ReFL,
    RewardWeighted,
    ScoreFunction,
    SingleRewardLV,
    Updates,
)
from ._signatures import plain_parameters


ESTIMATORS: Final[dict[str, Callable[..., AbstractGradientEstimator]]] = {
    "draft": DRaFT,
    "draft-lv": DRaFTLV,
    "single-reward-lv": SingleRewardLV,
    "refl": ReFL,
    "alignprop": AlignProp,
    "drtune": DRTune,
    "score-function": ScoreFunction,
}
ROUND_METHODS: Final[dict[str, Callable[..., AbstractRoundMethod]]] = {
    "ddpo": DDPO,
    "reward-weighted": RewardWeighted,
    "dpg": DPG,
}
METHODS: Final[dict[str, Callable[..., Any]]] = {**ESTIMATORS, **ROUND_METHODS}


def make_method(name: str, options: dict[str, Any], updates: Updates) -> Any:
    """Makes a method of a section of a configuration.

    **Arguments:**

    - `name`: One of `METHODS`.
    - `options`: Of all methods; `None` is the default of the one that is named.
    - `updates`: How a round is divided, for methods that have rounds.

    Raises a `ValueError` for an option that this one does not have.
    """
    given = {key: value for key, value in options.items() if value is not None}
    known = [parameter for parameter, *_ in plain_parameters(METHODS[name])]
    for key in given:
        if key not in known:
            raise ValueError(
                f"`method.{key}` must be left out for {name!r}, whose options are "
                f"{', '.join(known)}; got {given[key]!r}."
            )
    if name in ROUND_METHODS:
        return METHODS[name](**given, updates=updates)
    if updates != Updates():
        raise ValueError(
            f"`updates` must be left out for {name!r}, which has no rounds; methods "
            f"with rounds are {', '.join(ROUND_METHODS)}."
        )
    return METHODS[name](**given)
