"""Functions on arrays: the arithmetic that layers are made of."""

from ._attention import dot_product_attention as dot_product_attention
from ._dtypes import at_least_float32 as at_least_float32
from ._group_norm import (
    group_norm as group_norm,
    group_norm_reference as group_norm_reference,
)
from ._lora_matmul import (
    lora_matmul as lora_matmul,
    lora_matmul_reference as lora_matmul_reference,
)
