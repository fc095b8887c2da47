"""The vocabulary of shapes that every floor shares."""

from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Array, Float, Int, Integer, Num


# Unit-variance (noise) or scaled (data) latents, channels last.
Latents: TypeAlias = Float[Array, "batch height width channels"]
# Pixels in [0, 1], channels last.
# The axes have names of their own: a decoder sees latents and images in one call.
Images: TypeAlias = Float[Array, "batch image_height image_width 3"]
# Last hidden states of the text encoder.
TextEmbeddings: TypeAlias = Float[Array, "batch tokens features"]
InputIds: TypeAlias = Int[Array, "batch tokens"]
# Of negative prompts: one row for all images, or one for each.
NegativeInputIds: TypeAlias = Int[Array, "negatives tokens"]
# A list of strings. Looser than that, because `check_prompts` says more than a type
# checker would.
Prompts: TypeAlias = Any
# A number that is not a whole one, as it is kept.
Real: TypeAlias = float | int
# What users may write for numbers: also scalars of NumPy and of JAX.
WholeLike: TypeAlias = int | np.integer | Integer[Array, ""] | Integer[np.ndarray, ""]
RealLike: TypeAlias = float | int | np.generic | Num[Array, ""] | Num[np.ndarray, ""]
