from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..._checks import finite, within
from ..._custom_types import Real, RealLike
from ...lora import scale_lora
from ...pipeline import Pipeline
from ._early_stopping import check_diversity, keeps_diversity
from ._evaluation import Evaluation


def sweep_lora_scale(
    pipeline: Pipeline,
    scales: Sequence[RealLike],
    evaluation: Evaluation,
    *,
    min_diversity: RealLike = 0.0,
    known: Mapping[Real, Mapping[str, Any]] | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> tuple[float, list[dict[str, Any]]]:
    """Picks the scale of an adapter by the held-out score.

    What over-optimization did can often be taken back, in part, by a scale below 1
    ([DRaFT](https://arxiv.org/abs/2309.17400), section 5.5).

    **Arguments:**

    - `pipeline`: With a trained adapter.
    - `scales`: Finite numbers, as for `draftx.scale_lora`; of equal scores the one
        that comes first is picked.
    - `evaluation`: Must not be what decides in the end how good the result is.
    - `min_diversity`: Scales with a diversity below this fraction of the base model's
        (scale 0) are not picked.
    - `known`: What the evaluation has given at some of these scales before, which are
        not measured again.
    - `tell`: Called with how many batches of images are done, and how many there are.

    **Returns:**

    The scale, for `draftx.scale_lora`, and the figures of every one.
    """
    if not len(scales):
        raise ValueError("`scales` must hold at least one number; got none.")
    min_diversity = within("min_diversity", min_diversity)
    check_diversity(min_diversity, evaluation.measures_diversity())
    scales = [finite("scales", scale) for scale in scales]
    evaluation.check(pipeline)
    scaled = [scale_lora(pipeline, scale) for scale in scales]  # Raises at once.
    rows: list[dict[str, Any]] = []
    known = dict(known or {})
    left = [scale for scale in scales if scale not in known]
    for scale, one in zip(scales, scaled, strict=True):
        if scale not in known:
            heard = None if tell is None else _heard(tell, left.index(scale), len(left))
            known[scale] = evaluation(one, heard)
        rows.append({"lora_scale": scale} | dict(known[scale]))
    allowed = rows
    if min_diversity > 0:
        of_base = [row for row in rows if row["lora_scale"] == 0]
        base = of_base[0] if of_base else evaluation(scale_lora(pipeline, 0))
        allowed = [row for row in rows if keeps_diversity(row, base, min_diversity)]
    allowed = [row for row in allowed if row["score"] == row["score"]]
    if not allowed:
        raise ValueError(
            "`scales` must hold one with a finite score and a diversity of at least "
            f"{min_diversity} of the base model's; got {rows}. Try smaller ones."
        )
    return max(allowed, key=lambda row: row["score"])["lora_scale"], rows


def _heard(
    tell: Callable[[int, int], None], index: int, count: int
) -> Callable[[int, int], None]:
    """What one of several evaluations, all of the same size, tells of all of them."""
    return lambda done, total: tell(index * total + done, count * total)
