"""Two-dimensional convolution: one definition, several ways to compute it."""

from ._api import conv2d as conv2d
from ._dispatch import choose_conv2d as choose_conv2d, ConvShape as ConvShape
from ._lora import (
    lora_conv2d as lora_conv2d,
    lora_conv2d_reference as lora_conv2d_reference,
)
from ._order import weight_order as weight_order
from ._reference import conv2d_reference as conv2d_reference
from ._upsampled import (
    choose_upsampled_conv2d as choose_upsampled_conv2d,
    upsample_nearest as upsample_nearest,
    upsampled_conv2d as upsampled_conv2d,
    upsampled_conv2d_reference as upsampled_conv2d_reference,
)
