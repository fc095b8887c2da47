"""Gradient estimators: objectives whose gradient is the estimate, one a file."""

from ._alignprop import AlignProp as AlignProp
from ._draft import DRaFT as DRaFT, DRaFTLV as DRaFTLV
from ._drtune import DRTune as DRTune
from ._interface import (
    AbstractGradientEstimator as AbstractGradientEstimator,
    TrainedSteps as TrainedSteps,
)
from ._penalized import (
    AbstractPenalty as AbstractPenalty,
    NoiseDifference as NoiseDifference,
    Penalized as Penalized,
)
from ._refl import ReFL as ReFL
from ._score_function import ScoreFunction as ScoreFunction
from ._single_reward import SingleRewardLV as SingleRewardLV
