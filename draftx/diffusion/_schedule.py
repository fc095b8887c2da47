import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from .._custom_types import Real
from ..models import ConfigError, known_fields


_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
_PREDICTIONS = ("epsilon", "sample", "v_prediction")
_SPACINGS = ("leading", "trailing", "linspace")
_FIXED = {
    "thresholding": False,
    # Whether the model is told something else than the timestep, and whether it is of a
    # straight line between data and noise.
    "timestep_type": "discrete",
    "use_flow_sigmas": False,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    r"""Holds what `scheduler_config.json` says, field for field as in diffusers.

    The defaults are Stable Diffusion 1.4's. Only what describes the training of the
    model is read; that the file names PNDM as the sampler does not matter.
    `rescale_betas_zero_snr` moves and stretches $\sqrt{\bar\alpha_t}$ so that the last
    timestep is noise alone: algorithm 1 of [Common Diffusion Noise Schedules and Sample
    Steps are Flawed](https://arxiv.org/abs/2305.08891).
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
    rescale_betas_zero_snr: bool = False

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
        if self.steps_offset < 0:
            raise ConfigError(
                "`steps_offset` of the scheduler must be 0 or more; got "
                f"{self.steps_offset}."
            )
        self._check_betas()

    def _check_betas(self) -> None:
        betas = {"beta_start": self.beta_start, "beta_end": self.beta_end}
        if self.trained_betas is not None:
            if len(self.trained_betas) < self.num_train_timesteps:
                raise ConfigError(
                    "`trained_betas` of the scheduler must have an entry for each of "
                    f"the {self.num_train_timesteps} of `num_train_timesteps`; got "
                    f"{len(self.trained_betas)}."
                )
            betas = {f"trained_betas[{i}]": b for i, b in enumerate(self.trained_betas)}
        for name, beta in betas.items():
            if not 0 <= beta <= 1:
                raise ConfigError(
                    f"`{name}` of the scheduler must lie in [0, 1], being the share of "
                    f"the signal's variance that becomes noise; got {beta}."
                )
        if self.rescale_betas_zero_snr and not np.ptp(self._cumulated()) > 0:
            raise ConfigError(
                "`rescale_betas_zero_snr` of the scheduler must be false for a "
                "schedule without noise or of one timestep, which cannot be stretched; "
                f"got {self.rescale_betas_zero_snr}."
            )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "SchedulerConfig":
        """Reads a parsed `scheduler_config.json`, PNDM's and others' included.

        A missing field has the value that diffusers' DDIM gives it, except
        `clip_sample`: it says whether *pixels* are clipped, and files of schedulers
        that have no such field belong to latent models.
        """
        for name, accepted in _FIXED.items():
            if config.get(name) not in (None, accepted):
                raise ConfigError(
                    f"`{name}` of the scheduler must be {accepted!r}; got "
                    f"{config[name]!r}, which draftx does not implement."
                )
        missing: dict[str, Any] = dict(
            beta_start=0.0001,
            beta_end=0.02,
            beta_schedule="linear",
            steps_offset=0,
            set_alpha_to_one=True,
        )
        return cls(**(missing | known_fields(cls, config, "the scheduler")))

    def to_dict(self) -> dict[str, Any]:
        """Makes a `scheduler_config.json` that diffusers reads as a DDIM scheduler."""
        return {"_class_name": "DDIMScheduler"} | dataclasses.asdict(self)

    def alphas_cumprod(self) -> Float[np.ndarray, " num_train_timesteps"]:
        r"""Computes the signal variances $\bar\alpha_t$, float32."""
        alphas = self._cumulated()
        if self.rescale_betas_zero_snr:
            signal = np.sqrt(alphas)
            first, last = signal[0], signal[-1]
            alphas = ((signal - last) * (first / (first - last))) ** 2
        return alphas.astype(np.float32)

    def _cumulated(self) -> Float[np.ndarray, " num_train_timesteps"]:
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
        return np.cumprod(1 - betas)
