"""Functions on arrays: the arithmetic that layers are made of."""

from ._conv import conv2d as conv2d, conv2d_reference as conv2d_reference
from ._dtypes import at_least_float32 as at_least_float32
from ._geglu import geglu as geglu, geglu_reference as geglu_reference
from ._group_norm import (
    group_norm as group_norm,
    group_norm_reference as group_norm_reference,
)
from ._layer_norm import (
    layer_norm as layer_norm,
    layer_norm_reference as layer_norm_reference,
)
from ._lora_matmul import (
    lora_matmul as lora_matmul,
    lora_matmul_reference as lora_matmul_reference,
)
from .attention import (
    attention_reference as attention_reference,
    choose_implementation as choose_implementation,
    dot_product_attention as dot_product_attention,
)
