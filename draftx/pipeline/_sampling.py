"""What a user may choose about sampling: the options, and each rule about one."""

import warnings
from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx

from .._checks import check_is, check_whole, finite, within
from .._custom_types import Real, RealLike, WholeLike
from ..diffusion import AbstractLoRASchedule, AbstractSampler, SchedulerConfig


# A sampler, or what makes one of a model's noise schedule, such as `draftx.Euler`.
SamplerLike: TypeAlias = AbstractSampler | Callable[[SchedulerConfig], AbstractSampler]


class Sampling(eqx.Module):
    """Says how images are sampled: steps, guidance, noise, size.

    One object for everything that samples: `draftx.sample`, `reward_gradient`,
    `finetune`, `Evaluation`, the searches. Its defaults are the library's.
    """

    num_inference_steps: int = eqx.field(static=True)
    guidance_scale: Real = eqx.field(static=True)
    eta: Real = eqx.field(static=True)
    negative_prompt: str | None = eqx.field(static=True)
    lora_schedule: AbstractLoRASchedule | None
    sampler: SamplerLike | None
    height: int | None = eqx.field(static=True)
    width: int | None = eqx.field(static=True)

    def __init__(
        self,
        num_inference_steps: WholeLike = 50,
        guidance_scale: RealLike = 7.5,
        eta: RealLike = 0.0,
        negative_prompt: str | None = None,
        lora_schedule: AbstractLoRASchedule | None = None,
        sampler: SamplerLike | None = None,
        height: WholeLike | None = None,
        width: WholeLike | None = None,
    ):
        r"""**Arguments:**

        - `num_inference_steps`: $T$, from 1 to the model's training timesteps (1000).
        - `guidance_scale`: $w$ of classifier-free guidance. From 0 to 1 guidance is
            off, as in diffusers, and $w$ has no effect: the prompts alone count. The
            formula would make images of the negative prompts at 0, but 0 is what models
            distilled without guidance are published to be sampled with.
        - `eta`: Noise added by DDIM, from 0 (none) to 1 (that of the ancestral
            sampler). Must be 0 for samplers that do not take it.
        - `negative_prompt`: What guidance leads away from, for all images; `None` is
            the empty prompt. A column `negative_prompt` beside the prompts gives each
            image its own.
        - `lora_schedule`: At which steps the adapter is on, such as
            `draftx.LoRAWindow(last=20)` or `draftx.AnnealedGuidance()`. `None`: all.
        - `sampler`: A sampler, or what makes one of the model's noise schedule, such
            as `draftx.Euler`. `None` is the pipeline's own, DDIM.
        - `height`, `width`: Of the images, in pixels; `None` is what the model was
            trained on. They must be multiples of what the autoencoder and the UNet
            halve them by: 64 for Stable Diffusion.

        Raises a `ValueError` that names the argument for anything out of range.
        """
        num_inference_steps = check_whole("num_inference_steps", num_inference_steps)
        guidance_scale = finite("guidance_scale", guidance_scale)
        if guidance_scale < 0:
            raise ValueError(
                "`guidance_scale` must be at least 0 (from 0 to 1 guidance is off); "
                f"got {guidance_scale}. To lead away from something, name it in "
                "`negative_prompt`, with a `guidance_scale` above 1."
            )
        eta = within("eta", eta)
        if not isinstance(negative_prompt, str | None):
            raise ValueError(
                "`negative_prompt` must be one text for all images or None; got "
                f"{negative_prompt!r}. One for each is a column: "
                "{'prompt': [...], 'negative_prompt': [...]}."
            )
        if negative_prompt is not None and guidance_scale <= 1:
            warnings.warn(
                f"`negative_prompt` {negative_prompt!r} has no effect: with "
                f"`guidance_scale` {guidance_scale} guidance is off. Raise it above 1, "
                "or leave the negative prompt out.",
                stacklevel=3,
            )
        if lora_schedule is not None:
            example = "draftx.LoRAWindow(last=20)"
            check_is("lora_schedule", lora_schedule, AbstractLoRASchedule, example)
            lora_schedule.check(num_inference_steps)
        if isinstance(sampler, AbstractSampler):
            check_eta(sampler, eta)
        elif sampler is not None and not callable(sampler):
            raise ValueError(
                "`sampler` must be a sampler, a class of one such as `draftx.Euler`, "
                f"or None; got {sampler!r}."
            )
        if height is not None:
            height = check_whole("height", height)
        if width is not None:
            width = check_whole("width", width)
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.eta = eta
        self.negative_prompt = negative_prompt
        self.lora_schedule = lora_schedule
        self.sampler = sampler
        self.height = height
        self.width = width

    @property
    def is_guided(self) -> bool:
        """Whether each step asks the model twice for an image."""
        return self.guidance_scale > 1

    def sampler_for(self, config: SchedulerConfig) -> AbstractSampler | None:
        """Finds the sampler for a model; `None` for the pipeline's own."""
        if self.sampler is None or isinstance(self.sampler, AbstractSampler):
            return self.sampler
        sampler = self.sampler(config)
        check_is("sampler", sampler, AbstractSampler, "draftx.Euler")
        return sampler


def check_eta(sampler: AbstractSampler, eta: Real) -> None:
    """Raises unless `eta` means something to a sampler."""
    if eta != 0 and not sampler.takes_eta:
        raise ValueError(
            f"`eta` must be 0 for {type(sampler).__name__}, whose noise is not for "
            f"`eta` to say; got {eta}."
        )
