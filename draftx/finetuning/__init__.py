"""Fine-tuning on rewards: estimators, training, rounds, evaluation."""

import typing

from .. import _lazy as _lazy
from ..io.checkpoints import Checkpoints as Checkpoints
from .estimators import (
    AbstractGradientEstimator as AbstractGradientEstimator,
    AbstractPenalty as AbstractPenalty,
    AlignProp as AlignProp,
    DRaFT as DRaFT,
    DRaFTLV as DRaFTLV,
    DRTune as DRTune,
    NoiseDifference as NoiseDifference,
    Penalized as Penalized,
    ReFL as ReFL,
    ScoreFunction as ScoreFunction,
    SingleRewardLV as SingleRewardLV,
    TrainedSteps as TrainedSteps,
)
from .evaluation import (
    coarse_pixels as coarse_pixels,
    diversity as diversity,
    EarlyStopping as EarlyStopping,
    Evaluation as Evaluation,
    sweep_lora_scale as sweep_lora_scale,
)
from .training import (
    AbstractCallback as AbstractCallback,
    adamw as adamw,
    Callback as Callback,
    finetune as finetune,
    FinetuneResult as FinetuneResult,
    objective as objective,
    ProgressBar as ProgressBar,
    reward_gradient as reward_gradient,
    settle as settle,
    split as split,
    square_root_decay as square_root_decay,
    Stopping as Stopping,
    trainable_filter as trainable_filter,
    value_and_grad as value_and_grad,
    with_ema as with_ema,
)


if typing.TYPE_CHECKING:
    from .rounds import (
        AbstractRoundMethod as AbstractRoundMethod,
        DDPO as DDPO,
        DPG as DPG,
        finetune_in_rounds as finetune_in_rounds,
        RewardWeighted as RewardWeighted,
        Rollout as Rollout,
        Updates as Updates,
    )

# What learns without a gradient of the reward is not needed by those who have one.
_ROOMS = ("rounds",)
__getattr__ = _lazy.lazily(__name__, *_ROOMS)


def __dir__() -> list[str]:
    return _lazy.names(__name__, globals(), *_ROOMS)
