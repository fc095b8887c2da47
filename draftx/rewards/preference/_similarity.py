"""What the rewards that compare an image with its prompt share."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._custom_types import InputIds
from ...judges import CLIPModel
from ...layers import Remat
from ...models import CLIPTokenizer
from .._preprocess import Pixels


# As many texts as the text tower is given at once.
_CHUNK = 64


def check_tokenizer(tokenizer: CLIPTokenizer, model: CLIPModel) -> None:
    """Raises unless the tokenizer gives ids that the model was trained on.

    **Arguments:**

    - `tokenizer`: Of the prompts.
    - `model`: Reads its tokens.
    """
    config = model.config.text
    got = (tokenizer.vocab_size, tokenizer.max_length)
    vocab_size, most = config.vocab_size, config.max_position_embeddings
    if got[0] != vocab_size or got[1] > most:
        raise ValueError(
            f"`tokenizer` must have the model's {vocab_size} ids and give at most "
            f"{most} in a row; got {got[0]} and {got[1]}. Use the one published with "
            "the model."
        )


def text_embeddings(
    model: CLIPModel,
    tokenizer: Callable[[Sequence[str]], np.ndarray],
    texts: Sequence[str],
) -> Float[Array, "texts embedding"]:
    """Embeds every text as a unit vector, in float32.

    **Arguments:**

    - `model`: Reads tokens.
    - `tokenizer`: Makes them, such as a `CLIPTokenizer`.
    - `texts`: Strings.
    """
    input_ids = tokenizer(texts)
    rows = [
        _embed(model, jnp.asarray(input_ids[i : i + _CHUNK]))
        for i in range(0, len(input_ids), _CHUNK)
    ]
    return jnp.concatenate(rows)


def image_embeddings(
    model: Any, pixels: Pixels, *, remat: Remat
) -> Float[Array, "batch embedding"]:
    """Embeds every image as a unit vector, in float32.

    **Arguments:**

    - `model`: A `CLIPModel` or a `CLIPVisionModelWithProjection`.
    - `pixels`: Preprocessed.
    - `remat`: As in [`draftx.judges.CLIPVisionModel`][].
    """
    return unit(model.image_features(pixels, remat=remat))


def cosine(
    model: CLIPModel, pixels: Pixels, features: Any, *, remat: Remat, name: str
) -> Float[Array, " batch"]:
    """Computes the cosine of each image and its prompt.

    **Arguments:**

    - `model`: Embeds the images.
    - `pixels`: Preprocessed.
    - `features`: The rows of `prepare` for these images.
    - `remat`: As in [`draftx.judges.CLIPVisionModel`][].
    - `name`: Of the reward, for the error text.
    """
    if not isinstance(features, jax.Array | np.ndarray):
        got = "None" if features is None else f"a {type(features).__name__}"
        raise ValueError(
            f"`features` must be what `{name}.prepare` gives, which scores images by "
            f"their prompts; got {got}. Call "
            "`reward(images, reward.prepare(rows))`."
        )
    expected = (pixels.shape[0], model.config.projection_dim)
    if features.shape != expected:
        raise ValueError(
            f"`features` must have one row for each image, the shape {expected}; got "
            f"{features.shape}. `{name}.prepare` gives one row for each prompt."
        )
    images = image_embeddings(model, pixels, remat=remat)
    return jnp.sum(images * features.astype(images.dtype), axis=1)


def unit(x: Float[Array, "batch embedding"]) -> Float[Array, "batch embedding"]:
    """Rows of length one, in float32."""
    x = x.astype(jnp.float32)
    squares = jnp.sum(x**2, axis=1, keepdims=True)
    # A row of zeros stays one, with a finite gradient.
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


@eqx.filter_jit
def _embed(model: CLIPModel, input_ids: InputIds) -> Float[Array, "texts embedding"]:
    return unit(model.text_features(input_ids))
