"""Gradients of rewards with respect to adapters, and training on them."""

from ._alignprop import AlignProp as AlignProp
from ._budget import Budget as Budget, count as count
from ._checks import prepare_reward as prepare_reward, RewardError as RewardError
from ._ddpo import DDPO as DDPO
from ._diversity import coarse_pixels as coarse_pixels, diversity as diversity
from ._dpg import DPG as DPG
from ._draft import DRaFT as DRaFT, DRaFTLV as DRaFTLV
from ._drtune import DRTune as DRTune
from ._early_stopping import EarlyStopping as EarlyStopping
from ._estimator import (
    AbstractGradientEstimator as AbstractGradientEstimator,
    call_reward as call_reward,
    Episode as Episode,
)
from ._evaluation import Evaluation as Evaluation
from ._finetune import finetune as finetune
from ._lora_scale import sweep_lora_scale as sweep_lora_scale
from ._penalty import Penalized as Penalized
from ._probe import check_differentiable as check_differentiable
from ._refl import ReFL as ReFL
from ._result import FinetuneResult as FinetuneResult
from ._reward_gradient import (
    Reward as Reward,
    reward_gradient as reward_gradient,
    value_and_grad as value_and_grad,
)
from ._reward_weighted import RewardWeighted as RewardWeighted
from ._round_method import (
    AbstractRoundMethod as AbstractRoundMethod,
    Samples as Samples,
)
from ._rounds import finetune_in_rounds as finetune_in_rounds
from ._schedule import square_root_decay as square_root_decay
from ._score_function import (
    check_density as check_density,
    ScoreFunction as ScoreFunction,
)
from ._single_reward import SingleRewardLV as SingleRewardLV
from ._transitions import (
    log_prob as log_prob,
    random_steps as random_steps,
    record_chain as record_chain,
)
