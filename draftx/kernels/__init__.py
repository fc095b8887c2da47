"""Functions on arrays: the arithmetic that layers are made of."""

from ._device import (
    compiling_for as compiling_for,
    Device as Device,
    target_device as target_device,
)
from ._dtypes import at_least_float32 as at_least_float32
from ._geglu import (
    geglu as geglu,
    geglu_of_halves as geglu_of_halves,
    geglu_reference as geglu_reference,
)
from ._group_norm import (
    group_norm as group_norm,
    group_norm_reference as group_norm_reference,
)
from ._in_halves import choose_halves as choose_halves, in_halves as in_halves
from ._layer_norm import (
    layer_norm as layer_norm,
    layer_norm_reference as layer_norm_reference,
)
from ._lora_matmul import (
    lora_matmul as lora_matmul,
    lora_matmul_reference as lora_matmul_reference,
)
from ._matmul import matmul as matmul
from .attention import (
    attention_reference as attention_reference,
    AttentionShape as AttentionShape,
    choose_attention as choose_attention,
    dot_product_attention as dot_product_attention,
)
from .conv import (
    choose_conv2d as choose_conv2d,
    choose_upsampled_conv2d as choose_upsampled_conv2d,
    conv2d as conv2d,
    conv2d_reference as conv2d_reference,
    ConvShape as ConvShape,
    lora_conv2d as lora_conv2d,
    lora_conv2d_reference as lora_conv2d_reference,
    upsample_nearest as upsample_nearest,
    upsampled_conv2d as upsampled_conv2d,
    upsampled_conv2d_reference as upsampled_conv2d_reference,
    weight_order as weight_order,
)
