"""The vocabulary of shapes that every floor shares."""

from typing import TypeAlias

from jaxtyping import Array, Float, Int


# Unit-variance (noise) or scaled (data) latents, channels last.
Latents: TypeAlias = Float[Array, "batch height width channels"]
# Pixels in [0, 1], channels last.
Images: TypeAlias = Float[Array, "batch height width 3"]
# Last hidden states of the text encoder.
TextEmbeddings: TypeAlias = Float[Array, "batch tokens features"]
InputIds: TypeAlias = Int[Array, "batch tokens"]
