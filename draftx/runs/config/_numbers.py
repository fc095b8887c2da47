"""Numbers of a configuration that nothing else looks at before a model is loaded."""

import dataclasses
from typing import Any, Final

from ..._checks import check_whole, finite, is_whole, positive
from ._config import RunConfig


# Larger ones have no place in arrays; the seed may be twice as large.
_LARGEST: Final = 2**31


def check_numbers(config: RunConfig) -> None:
    """Raises a `ValueError` for a number of a `config` that cannot be."""
    _check_size(dataclasses.asdict(config) | {"seed": 0}, "")
    check_whole("rank", config.rank)
    if config.alpha is not None:
        positive("alpha", config.alpha)
    for name in ("every", "num_samples", "batch_size"):
        check_whole(f"evaluation.{name}", getattr(config.evaluation, name))
    for scale in config.lora_scales:
        finite("lora_scales", scale)
    if len(set(config.lora_scales)) < len(config.lora_scales):
        raise ValueError(
            f"`lora_scales` must differ; got {list(config.lora_scales)}. Say each once."
        )
    check_whole("validation_steps", config.validation_steps)
    check_whole("num_validation_images", config.num_validation_images)


def _check_size(table: dict[str, Any], prefix: str) -> None:
    for name, value in table.items():
        if isinstance(value, dict):
            _check_size(value, f"{prefix}{name}.")
        elif is_whole(value, least=_LARGEST):
            raise ValueError(f"`{prefix}{name}` must be below 2**31; got {value}.")
