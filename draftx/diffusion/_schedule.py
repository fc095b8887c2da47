import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from .._custom_types import Real
from ..models import ConfigError


_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
_PREDICTIONS = ("epsilon", "sample", "v_prediction")
_SPACINGS = ("leading", "trailing", "linspace")
_FIXED = {"thresholding": False, "rescale_betas_zero_snr": False}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """Holds what `scheduler_config.json` says, field for field as in diffusers.

    The defaults are Stable Diffusion 1.4's. Only what describes the training of the
    model is read; that the file names PNDM as the sampler does not matter.
    """

    num_train_timesteps: int = 1000
    beta_start: Real = 0.00085
    beta_end: Real = 0.012
    beta_schedule: str = "scaled_linear"
    trained_betas: tuple[Real, ...] | None = None
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    clip_sample: bool = False
    clip_sample_range: Real = 1.0

    def __post_init__(self):
        for name, accepted in (
            ("beta_schedule", _SCHEDULES),
            ("prediction_type", _PREDICTIONS),
            ("timestep_spacing", _SPACINGS),
        ):
            if getattr(self, name) not in accepted:
                raise ConfigError(
                    f"`{name}` of the scheduler must be one of {list(accepted)}; got "
                    f"{getattr(self, name)!r}."
                )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "SchedulerConfig":
        """Reads a parsed `scheduler_config.json`, PNDM's and others' included.

        A missing field has the value that diffusers' DDIM gives it, except
        `clip_sample`: it says whether *pixels* are clipped, and files of schedulers
        that have no such field belong to latent models.
        """
        for name, accepted in _FIXED.items():
            if config.get(name, accepted) != accepted:
                raise ConfigError(
                    f"`{name}` of the scheduler must be {accepted}; got "
                    f"{config[name]!r}, which draftx does not implement."
                )
        missing: dict[str, Any] = dict(
            beta_start=0.0001,
            beta_end=0.02,
            beta_schedule="linear",
            steps_offset=0,
            set_alpha_to_one=True,
        )
        names = {field.name for field in dataclasses.fields(cls)}
        given = {k: v for k, v in config.items() if k in names and v is not None}
        if "trained_betas" in given:
            given["trained_betas"] = tuple(given["trained_betas"])
        return cls(**(missing | given))

    def to_dict(self) -> dict[str, Any]:
        """Makes a `scheduler_config.json` that diffusers reads as a DDIM scheduler."""
        return {"_class_name": "DDIMScheduler"} | dataclasses.asdict(self)

    def alphas_cumprod(self) -> Float[np.ndarray, " num_train_timesteps"]:
        r"""Computes the signal variances $\bar\alpha_t$, float32."""
        steps = self.num_train_timesteps
        if self.trained_betas is not None:
            betas = np.asarray(self.trained_betas, np.float64)
        elif self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, steps)
        elif self.beta_schedule == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, steps) ** 2
        else:
            cosine = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
            ratios = [cosine((t + 1) / steps) / cosine(t / steps) for t in range(steps)]
            betas = np.minimum(1 - np.asarray(ratios), 0.999)
        return np.cumprod(1 - betas).astype(np.float32)
