"""Fine-tuning diffusion models on differentiable rewards, in JAX and Equinox."""

import importlib
import typing

from . import (
    diffusion as diffusion,
    episodes as episodes,
    finetuning as finetuning,
    io as io,
    kernels as kernels,
    layers as layers,
    lora as lora,
    models as models,
    rewards as rewards,
)
from ._compilation import enable_compilation_cache as enable_compilation_cache
from ._devices import split_cpu as split_cpu
from ._table import Table as Table
from ._version import __version__ as __version__
from .diffusion import (
    AbstractSampler as AbstractSampler,
    Ancestral as Ancestral,
    AnnealedGuidance as AnnealedGuidance,
    DDIM as DDIM,
    Euler as Euler,
    LoRAWindow as LoRAWindow,
)
from .episodes import Budget as Budget, Episode as Episode, Memory as Memory
from .finetuning import (
    AbstractCallback as AbstractCallback,
    AbstractGradientEstimator as AbstractGradientEstimator,
    AbstractPenalty as AbstractPenalty,
    adamw as adamw,
    AlignProp as AlignProp,
    Checkpoints as Checkpoints,
    DRaFT as DRaFT,
    DRaFTLV as DRaFTLV,
    DRTune as DRTune,
    EarlyStopping as EarlyStopping,
    Evaluation as Evaluation,
    finetune as finetune,
    FinetuneResult as FinetuneResult,
    Penalized as Penalized,
    ProgressBar as ProgressBar,
    ReFL as ReFL,
    reward_gradient as reward_gradient,
    ScoreFunction as ScoreFunction,
    SingleRewardLV as SingleRewardLV,
    Stopping as Stopping,
    sweep_lora_scale as sweep_lora_scale,
    with_ema as with_ema,
)
from .io import (
    load as load,
    load_embedding as load_embedding,
    load_learned_inputs as load_learned_inputs,
    load_lora as load_lora,
    save as save,
    save_learned_inputs as save_learned_inputs,
    save_lora as save_lora,
)
from .lora import (
    add_lora as add_lora,
    lora_state_dict as lora_state_dict,
    merge_lora as merge_lora,
    mix_lora as mix_lora,
    scale_lora as scale_lora,
)
from .pipeline import (
    add_conditioning_image as add_conditioning_image,
    add_learned_inputs as add_learned_inputs,
    Pipeline as Pipeline,
    remove_learned_inputs as remove_learned_inputs,
    sample as sample,
    Sampling as Sampling,
    shard as shard,
)
from .rewards import (
    AbstractReward as AbstractReward,
    jpeg_roundtrip as jpeg_roundtrip,
    Reward as Reward,
    RewardError as RewardError,
)


if typing.TYPE_CHECKING:
    from . import (
        distillation as distillation,
        judges as judges,
        runs as runs,
        search as search,
    )
    from .finetuning import (
        DDPO as DDPO,
        DPG as DPG,
        finetune_in_rounds as finetune_in_rounds,
        RewardWeighted as RewardWeighted,
        Updates as Updates,
    )


# No training on a gradient needs the upper floors, the command's packages, the networks
# of rewards and the rounds of methods without one, which are a quarter of a second
# together: they are imported when they are first asked for.
_LATE = ("distillation", "judges", "runs", "search")
_OF_ROUNDS = ("DDPO", "DPG", "finetune_in_rounds", "RewardWeighted", "Updates")


def __getattr__(name: str) -> typing.Any:
    if name in _LATE:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _OF_ROUNDS:
        return getattr(finetuning, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE, *_OF_ROUNDS})
