"""Noise schedules, samplers, guidance, and the chain that gradients are cut from."""

from ._ancestral import Ancestral as Ancestral, AncestralSteps as AncestralSteps
from ._chain import (
    Chain as Chain,
    Prediction as Prediction,
    Record as Record,
    record as record,
    run as run,
    run_frozen as run_frozen,
    run_truncated as run_truncated,
    State as State,
)
from ._charge import AbstractStepCost as AbstractStepCost, Charge as Charge
from ._ddim import DDIM as DDIM, DDIMSteps as DDIMSteps
from ._denoiser import AbstractDenoiser as AbstractDenoiser
from ._density import (
    check_density_reduction as check_density_reduction,
    check_noise as check_noise,
    DensityReduction as DensityReduction,
    log_prob as log_prob,
    log_ratio as log_ratio,
    random_steps as random_steps,
)
from ._euler import Euler as Euler, EulerSteps as EulerSteps
from ._guidance import Denoiser as Denoiser
from ._image_prompt import ImagePrompt as ImagePrompt
from ._interpolant import (
    check_levels as check_levels,
    mix as mix,
    training_target as training_target,
)
from ._lora_schedule import (
    AbstractLoRASchedule as AbstractLoRASchedule,
    AnnealedGuidance as AnnealedGuidance,
    LoRAWindow as LoRAWindow,
    MixedDenoiser as MixedDenoiser,
    SwitchedDenoiser as SwitchedDenoiser,
)
from ._reach import find_idle_steps as find_idle_steps, noise_levels as noise_levels
from ._reference import Guided as Guided, Reference as Reference
from ._sampler import AbstractSampler as AbstractSampler, AbstractSteps as AbstractSteps
from ._schedule import SchedulerConfig as SchedulerConfig
from ._split_denoiser import SplitDenoiser as SplitDenoiser
from ._step_noise import Part as Part, step_noise as step_noise
