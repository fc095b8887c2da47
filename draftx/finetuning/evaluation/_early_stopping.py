"""When to stop, and which of the adapters on the way to keep."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx

from ..._checks import check_is, check_whole, not_negative, plain, within
from ..._custom_types import Real


class EarlyStopping(eqx.Module):
    """Keeps the best adapter, and stops a run that only follows its own reward.

    Judged after every [`draftx.finetuning.Evaluation`][]. The best one is the last
    whose `score` exceeded all that came before by more than `min_delta`, and whose
    diversity was at least `min_diversity` of that before training. Training stops when

    - `patience` evaluations in a row were not better than the best, and
    - the training reward has risen meanwhile: its mean over the steps since the last
        evaluation is above its mean over those that led to the best one. Without that
        the reward is not being exploited, it just does not learn. With
        `require_rising=False` this does not matter.

    The adapter of the best evaluation is what `draftx.finetune` then returns, also if
    it comes to its end without being stopped.

    **Arguments:**

    - `patience`: At least 1, counted in evaluations; `None` never stops, and the best
        is kept all the same.
    - `min_delta`: In units of the score, at least 0.
    - `min_diversity`: A fraction, from 0 to 1. One image for all noises has a diversity
        of 0, however good it is.
    - `require_rising`: Whether the training reward must have risen meanwhile.
    """

    patience: int | None = eqx.field(static=True, converter=plain, default=3)
    min_delta: Real = eqx.field(static=True, converter=plain, default=0.0)
    min_diversity: Real = eqx.field(static=True, converter=plain, default=0.0)
    require_rising: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if self.patience is not None:
            check_whole("patience", self.patience)
        not_negative("min_delta", self.min_delta)
        within("min_diversity", self.min_diversity)
        check_is("require_rising", self.require_rising, bool, "True")

    def best(self, evaluations: Sequence[dict[str, Any]]) -> int:
        """Finds the index of the best evaluation; the first is that before training."""
        best, highest = 0, _rank(evaluations[0])
        for i, figures in enumerate(evaluations):
            is_diverse = keeps_diversity(figures, evaluations[0], self.min_diversity)
            if is_diverse and _rank(figures) > highest + self.min_delta:
                best, highest = i, _rank(figures)
        return best

    def reason(self, evaluations: Sequence[dict[str, Any]]) -> str | None:
        """Says why to stop after these evaluations; `None` to go on."""
        best = self.best(evaluations)
        waited = len(evaluations) - 1 - best
        if self.patience is None or waited < self.patience:
            return None
        # Nothing has been trained before the first.
        was = evaluations[max(best, 1)]["train_reward"]
        now = evaluations[-1]["train_reward"]
        if self.require_rising and not now > was:
            return None
        return (
            f"held-out score {evaluations[-1]['score']:.4g} after {waited} evaluations "
            f"without a better one than {evaluations[best]['score']:.4g}, while the "
            f"training reward went from {was:.4g} to {now:.4g}"
        )


def check_diversity(min_diversity: Real, is_measured: bool) -> None:
    """Raises if a diversity is asked for that an evaluation does not measure.

    **Arguments:**

    - `min_diversity`: What is asked for; 0 for none.
    - `is_measured`: Whether the evaluation has two images to compare.
    """
    if min_diversity > 0 and not is_measured:
        raise ValueError(
            "`min_diversity` must be 0 for an evaluation of one image, which differs "
            f"from no other; got {min_diversity}. Give `draftx.Evaluation` a "
            "`num_samples` above 1 or more prompts."
        )


def keeps_diversity(
    figures: dict[str, Any], before: dict[str, Any], min_diversity: Real
) -> bool:
    """Says whether images differ by enough of what they did before.

    Images of the same prompt; where there is one of each, of different prompts.
    """
    for name in ("diversity", "diversity_across"):
        if name in before:
            return bool(figures[name] >= min_diversity * before[name])
    return True


def _rank(figures: dict[str, Any]) -> float:
    score = float(figures["score"])
    return -math.inf if math.isnan(score) else score
