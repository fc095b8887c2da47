"""The adapter of a run at other scales: what over-optimization did may be undone."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..._hosts import is_first, on_first
from ..._signals import EXIT_CODES
from ...finetuning import Evaluation, FinetuneResult, sweep_lora_scale
from ...lora import scale_lora
from ...pipeline import Pipeline
from .._busy import Busy
from ..config import RunConfig
from ..folder import captioned_grid, read_scales, RunFolder, Scales, write_scales


def measure_scales(
    config: RunConfig,
    folder: RunFolder,
    result: FinetuneResult,
    evaluation: Evaluation,
    prompts: Sequence[str],
    draw: Callable[[Pipeline], np.ndarray],
) -> None:
    """Measures and draws the adapter at the scales of a configuration, if it has any.

    What was measured of another adapter is removed.

    **Arguments:**

    - `config`, `folder`, `result`: Of the run; one that a signal has ended is not
        measured.
    - `evaluation`: Measures.
    - `prompts`, `draw`: What is drawn, and how.
    """
    if not on_first(lambda: _is_due(config, folder, result)):
        return
    step, scales = _step(result), config.lora_scales
    least = config.stopping.min_diversity if evaluation.measures_diversity() else 0
    with Busy(f"measuring the adapter at {len(scales)} scales", "batches") as busy:
        try:
            best, rows = sweep_lora_scale(
                result.pipeline,
                scales,
                evaluation,
                min_diversity=least,
                known=_known(config, result),
                tell=busy.tell,
            )
        except ValueError as error:
            # The adapter is there, whatever its scales.
            warnings.warn(f"`lora_scales` were not measured: {error}", stacklevel=2)
            return
    with Busy("drawing the samples at these scales"):
        drawn = {
            f"scale {scale:g}": draw(scale_lora(result.pipeline, scale))
            for scale in scales
        }
    if is_first():
        captioned_grid(folder.scales_picture, drawn, prompts)
        write_scales(folder, Scales(best, rows, step))


def _is_due(config: RunConfig, folder: RunFolder, result: FinetuneResult) -> bool:
    known = read_scales(folder)
    if known is not None:
        measured = tuple(row["lora_scale"] for row in known.figures)
        is_drawn = folder.scales_picture.is_file()
        if (known.step, measured) == (_step(result), config.lora_scales) and is_drawn:
            return False
    for path in (folder.scales, folder.scales_picture):
        path.unlink(missing_ok=True)
    is_stopped = result.stopped in [number.name for number in EXIT_CODES]
    return bool(config.lora_scales) and not is_stopped


def _known(config: RunConfig, result: FinetuneResult) -> dict[float, dict[str, Any]]:
    """What was measured of these scales while the run lasted."""
    steps = {_step(result): 1.0}
    if config.init_lora is None:
        # A new adapter changes nothing.
        steps = {0: 0.0} | steps
    return {
        steps[row["step"]]: {
            name: value
            for name, value in row.items()
            if name not in ("step", "train_reward")
        }
        for row in result.evaluations
        if row["step"] in steps
    }


def _step(result: FinetuneResult) -> int:
    return len(result.history) if result.step is None else result.step
