"""Layers with parameters: linear, convolution, norms, attention."""

from ._affine import AbstractAffine as AbstractAffine, Layout as Layout
from ._attention import (
    Attention as Attention,
    KeyValue as KeyValue,
    match_batch as match_batch,
)
from ._conv import AbstractConv2d as AbstractConv2d, Conv2d as Conv2d
from ._device_order import in_device_order as in_device_order
from ._embedding import (
    sinusoidal_embedding as sinusoidal_embedding,
    TimestepEmbedding as TimestepEmbedding,
)
from ._feed_forward import GEGLUFeedForward as GEGLUFeedForward
from ._linear import AbstractLinear as AbstractLinear, Linear as Linear
from ._norm import GroupNorm as GroupNorm, LayerNorm as LayerNorm
from ._pieces import gathered as gathered, Piece as Piece
from ._remat import (
    checkpoint_if as checkpoint_if,
    Remat as Remat,
)
from ._resnet import ResnetBlock as ResnetBlock
