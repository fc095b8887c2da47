"""The size of a JPEG file, differentiably."""

from ._codec import jpeg_roundtrip as jpeg_roundtrip
from ._compressibility import (
    JPEGCompressibility as JPEGCompressibility,
    JPEGIncompressibility as JPEGIncompressibility,
)
from ._tables import quantization_tables as quantization_tables
