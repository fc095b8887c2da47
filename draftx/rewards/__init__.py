from ._base import AbstractReward as AbstractReward
from ._compressibility import (
    JPEGCompressibility as JPEGCompressibility,
    JPEGIncompressibility as JPEGIncompressibility,
)
from ._jpeg_codec import jpeg_roundtrip as jpeg_roundtrip
from ._jpeg_tables import quantization_tables as quantization_tables
from ._rotation import RotationAntiCorrelation as RotationAntiCorrelation
