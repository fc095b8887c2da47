"""The noise schedule, the DDIM sampler, guidance, and the truncated chain."""

from ._chain import run_chain as run_chain, stop_gradient as stop_gradient
from ._ddim import DDIM as DDIM, DDIMSteps as DDIMSteps
from ._guidance import Denoiser as Denoiser
from ._schedule import SchedulerConfig as SchedulerConfig
