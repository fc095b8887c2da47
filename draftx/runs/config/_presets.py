"""What a run is unless it is told otherwise, by the size of the model."""

import dataclasses
from typing import Final

from ...io import EMBEDDED_MODELS
from ._config import RunConfig


def _of_preset(preset: str) -> RunConfig:
    base = RunConfig(preset=preset)  # pyright: ignore[reportArgumentType]
    change = dataclasses.replace
    if preset == "tiny":
        return change(
            base,
            sampling=change(base.sampling, num_inference_steps=20, guidance_scale=4.0),
            evaluation=change(base.evaluation, every=44, num_samples=1),
            checkpoints=change(base.checkpoints, every=20),
        )
    # DRaFT, appendix A.1.
    base = change(
        base,
        dtype="bfloat16",
        prompts="{animals}",
        max_train_steps=2000,
        validation_steps=100,
        evaluation=change(base.evaluation, every=200),
        checkpoints=change(base.checkpoints, every=100),
    )
    if preset == "small":
        return base
    return change(
        base,
        max_train_steps=10_000,
        train_batch_size=16,
        rank=32,
        optimizer=change(
            base.optimizer, learning_rate=2e-4, schedule="square-root", s0=10.0
        ),
    )


PRESETS: Final = {name: _of_preset(name) for name in ("tiny", "small", "large")}


def default_config(preset: str | None, model: str) -> RunConfig:
    """Finds what a run has unless it is told otherwise.

    **Arguments:**

    - `preset`: A name of `PRESETS`; `None` chooses by the model.
    - `model`: As for `draftx.load`.
    """
    if preset is None:
        preset = "tiny" if model in EMBEDDED_MODELS else "small"
    if preset not in PRESETS:
        raise ValueError(
            f"`preset` must be one of {', '.join(PRESETS)}; got {preset!r}."
        )
    return dataclasses.replace(PRESETS[preset], model=model)
