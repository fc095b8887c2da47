"""What networks see in images: classes, things, likeness."""

from ._classifier import ClassifierReward as ClassifierReward
from ._count import CountReward as CountReward
from ._degradation import Degradation as Degradation
from ._detected_count import DetectedCount as DetectedCount
from ._detection import DetectionReward as DetectionReward
from ._dissimilarity import BatchDissimilarity as BatchDissimilarity
from ._distance import (
    AbstractDistance as AbstractDistance,
    MeanSquaredError as MeanSquaredError,
)
from ._features import FeatureDistance as FeatureDistance
from ._imagenet import (
    imagenet_classes as imagenet_classes,
    ResizeAndCrop as ResizeAndCrop,
)
from ._lpips import LPIPS as LPIPS
from ._own_reference import ReferenceSimilarity as ReferenceSimilarity
from ._references import (
    FeatureSimilarity as FeatureSimilarity,
    LPIPSSimilarity as LPIPSSimilarity,
)
from ._tokens import TokenDistance as TokenDistance
