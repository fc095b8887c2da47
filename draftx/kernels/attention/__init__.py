"""Scaled dot-product attention: one definition, several ways to compute it."""

from ._api import dot_product_attention as dot_product_attention
from ._dispatch import (
    AttentionShape as AttentionShape,
    choose_attention as choose_attention,
)
from ._reference import attention_reference as attention_reference
