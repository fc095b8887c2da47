from ..models import AestheticHead as AestheticHead
from ._aesthetic import AestheticScore as AestheticScore
from ._base import (
    AbstractRandomReward as AbstractRandomReward,
    AbstractReward as AbstractReward,
    with_key as with_key,
)
from ._classifier import ClassifierReward as ClassifierReward
from ._clip_score import (
    AbstractCLIPReward as AbstractCLIPReward,
    CLIPScore as CLIPScore,
    HPSv2 as HPSv2,
    PickScore as PickScore,
)
from ._combine import (
    Clipped as Clipped,
    Negated as Negated,
    Normalized as Normalized,
    PerPrompt as PerPrompt,
    Thresholded as Thresholded,
    WeightedSum as WeightedSum,
)
from ._compressibility import (
    JPEGCompressibility as JPEGCompressibility,
    JPEGIncompressibility as JPEGIncompressibility,
)
from ._dissimilarity import BatchDissimilarity as BatchDissimilarity
from ._dropout import AestheticDropout as AestheticDropout
from ._features import FeatureDistance as FeatureDistance
from ._host import (
    HostReward as HostReward,
    probe_host_rewards as probe_host_rewards,
)
from ._hps_benchmark import (
    hps_benchmark as hps_benchmark,
    hps_prompts as hps_prompts,
    hps_result as hps_result,
    HPS_STYLES as HPS_STYLES,
    HPSResult as HPSResult,
)
from ._image_reward import ImageReward as ImageReward
from ._imagenet import (
    imagenet_classes as imagenet_classes,
    ResizeAndCrop as ResizeAndCrop,
)
from ._jpeg_codec import jpeg_roundtrip as jpeg_roundtrip
from ._jpeg_tables import quantization_tables as quantization_tables
from ._load import load as load, load_lpips as load_lpips
from ._lpips import LPIPS as LPIPS
from ._owlvit import DetectionReward as DetectionReward
from ._published import (
    names as names,
    published as published,
    PublishedReward as PublishedReward,
)
from ._references import (
    FeatureSimilarity as FeatureSimilarity,
    LPIPSSimilarity as LPIPSSimilarity,
)
from ._rotation import RotationAntiCorrelation as RotationAntiCorrelation
