"""Fine-tuning diffusion models on differentiable rewards, in JAX and Equinox."""

from . import (
    diffusion as diffusion,
    io as io,
    kernels as kernels,
    layers as layers,
    lora as lora,
    models as models,
    rewards as rewards,
)
from ._compilation import enable_compilation_cache as enable_compilation_cache
from .finetuning import (
    AbstractGradientEstimator as AbstractGradientEstimator,
    AlignProp as AlignProp,
    DRaFT as DRaFT,
    DRaFTLV as DRaFTLV,
    DRTune as DRTune,
    finetune as finetune,
    FinetuneResult as FinetuneResult,
    ReFL as ReFL,
    Reward as Reward,
    reward_gradient as reward_gradient,
    RewardError as RewardError,
)
from .io import (
    load as load,
    load_lora as load_lora,
    save as save,
    save_lora as save_lora,
)
from .lora import (
    add_lora as add_lora,
    lora_state_dict as lora_state_dict,
    merge_lora as merge_lora,
    mix_lora as mix_lora,
    scale_lora as scale_lora,
)
from .pipeline import Pipeline as Pipeline, sample as sample
from .rewards import AbstractReward as AbstractReward, jpeg_roundtrip as jpeg_roundtrip


__version__ = "0.1.0"
