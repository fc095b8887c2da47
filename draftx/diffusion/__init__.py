"""The noise schedule, the DDIM sampler, guidance, and the truncated chain."""

from ._chain import (
    run_chain as run_chain,
    run_chain_with_cost as run_chain_with_cost,
    run_frozen as run_frozen,
    step_noise as step_noise,
    StepCost as StepCost,
)
from ._ddim import DDIM as DDIM, DDIMSteps as DDIMSteps
from ._guidance import AbstractDenoiser as AbstractDenoiser, Denoiser as Denoiser
from ._lora_schedule import (
    AbstractLoRASchedule as AbstractLoRASchedule,
    AnnealedGuidance as AnnealedGuidance,
    LoRAWindow as LoRAWindow,
    MixedDenoiser as MixedDenoiser,
    SwitchedDenoiser as SwitchedDenoiser,
)
from ._schedule import SchedulerConfig as SchedulerConfig
from ._split_denoiser import SplitDenoiser as SplitDenoiser
