"""The noise schedule, the DDIM sampler, guidance, and the truncated chain."""

from ._chain import run_chain as run_chain, run_frozen as run_frozen
from ._ddim import DDIM as DDIM, DDIMSteps as DDIMSteps
from ._guidance import AbstractDenoiser as AbstractDenoiser, Denoiser as Denoiser
from ._schedule import SchedulerConfig as SchedulerConfig
