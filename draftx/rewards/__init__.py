from ._aesthetic import (
    AestheticHead as AestheticHead,
    AestheticScore as AestheticScore,
)
from ._base import AbstractReward as AbstractReward
from ._classifier import ClassifierReward as ClassifierReward
from ._clip_score import (
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
from ._imagenet import (
    imagenet_classes as imagenet_classes,
    ResizeAndCrop as ResizeAndCrop,
)
from ._jpeg_codec import jpeg_roundtrip as jpeg_roundtrip
from ._jpeg_tables import quantization_tables as quantization_tables
from ._lpips import LPIPS as LPIPS
from ._references import (
    FeatureSimilarity as FeatureSimilarity,
    LPIPSSimilarity as LPIPSSimilarity,
)
from ._rotation import RotationAntiCorrelation as RotationAntiCorrelation
