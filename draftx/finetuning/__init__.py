"""Gradients of rewards with respect to adapters, and training on them."""

from ._alignprop import AlignProp as AlignProp
from ._draft import DRaFT as DRaFT, DRaFTLV as DRaFTLV
from ._drtune import DRTune as DRTune
from ._estimator import (
    AbstractGradientEstimator as AbstractGradientEstimator,
    Episode as Episode,
)
from ._finetune import finetune as finetune, FinetuneResult as FinetuneResult
from ._refl import ReFL as ReFL
from ._reward_gradient import (
    Reward as Reward,
    reward_gradient as reward_gradient,
    RewardError as RewardError,
    value_and_grad as value_and_grad,
)
