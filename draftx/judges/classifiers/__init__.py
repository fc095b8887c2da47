"""Convolutional networks that name what an image shows, and what they see in it."""

from ._arrays import with_arrays as with_arrays
from ._efficientnet import EfficientNetLite as EfficientNetLite, Stage as Stage
from ._resnet import ResNet as ResNet
from ._trunks import PerceptualTrunk as PerceptualTrunk
