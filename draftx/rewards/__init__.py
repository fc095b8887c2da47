import typing

from .. import _lazy as _lazy
from ._change import (
    Clipped as Clipped,
    Negated as Negated,
    Normalized as Normalized,
    Thresholded as Thresholded,
)
from ._combine import PerPrompt as PerPrompt, WeightedSum as WeightedSum
from ._rotation import RotationAntiCorrelation as RotationAntiCorrelation
from .contract import (
    AbstractRandomReward as AbstractRandomReward,
    AbstractReward as AbstractReward,
    as_reward as as_reward,
    check_differentiable as check_differentiable,
    check_finite as check_finite,
    check_scores as check_scores,
    FunctionReward as FunctionReward,
    HostReward as HostReward,
    probe_host_rewards as probe_host_rewards,
    Reward as Reward,
    RewardError as RewardError,
    Scores as Scores,
    with_key as with_key,
)
from .jpeg import (
    jpeg_roundtrip as jpeg_roundtrip,
    JPEGCompressibility as JPEGCompressibility,
    JPEGIncompressibility as JPEGIncompressibility,
    quantization_tables as quantization_tables,
)


if typing.TYPE_CHECKING:
    from .perception import (
        AbstractDistance as AbstractDistance,
        BatchDissimilarity as BatchDissimilarity,
        ClassifierReward as ClassifierReward,
        CountReward as CountReward,
        Degradation as Degradation,
        DetectedCount as DetectedCount,
        DetectionReward as DetectionReward,
        FeatureDistance as FeatureDistance,
        FeatureSimilarity as FeatureSimilarity,
        imagenet_classes as imagenet_classes,
        LPIPS as LPIPS,
        LPIPSSimilarity as LPIPSSimilarity,
        MeanSquaredError as MeanSquaredError,
        ReferenceSimilarity as ReferenceSimilarity,
        ResizeAndCrop as ResizeAndCrop,
        TokenDistance as TokenDistance,
    )
    from .preference import (
        AbstractCLIPReward as AbstractCLIPReward,
        AestheticDropout as AestheticDropout,
        AestheticHead as AestheticHead,
        AestheticScore as AestheticScore,
        CLIPScore as CLIPScore,
        hps_benchmark as hps_benchmark,
        hps_prompts as hps_prompts,
        hps_result as hps_result,
        HPS_STYLES as HPS_STYLES,
        HPSResult as HPSResult,
        HPSv2 as HPSv2,
        ImageReward as ImageReward,
        PickScore as PickScore,
    )
    from .zoo import (
        load as load,
        load_lpips as load_lpips,
        names as names,
        published as published,
        PublishedReward as PublishedReward,
    )

# Most of these need a network that judges, and those who bring their own reward need
# none.
_ROOMS = ("perception", "preference", "zoo")
__getattr__ = _lazy.lazily(__name__, *_ROOMS)


def __dir__() -> list[str]:
    return _lazy.names(__name__, globals(), *_ROOMS)
