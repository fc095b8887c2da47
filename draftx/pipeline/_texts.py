"""What the text encoder says of a table, asked for once."""

from typing import Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Int

from .._compilation import compiled
from .._custom_types import InputIds, TextEmbeddings
from .._mesh import to_host
from ..lora import has_lora
from ..models import CLIPTextModel
from ._batch import Conditioning
from ._pipeline import Pipeline


# Of the embeddings of a table, on each device: 4,539 prompts of Stable Diffusion 1.4 in
# float32, which take its text encoder a fifth of the work of one step of training. How
# long a training is must not count: one that goes on with more steps is to be the same.
MAX_BYTES: Final = 2**30
# One program for tables of all lengths.
_CHUNK: Final = 16


def encode_texts(
    pipeline: Pipeline, conditioning: Conditioning
) -> tuple[Pipeline, Conditioning]:
    """Asks the text encoder once about every text, where its answers will not change.

    Where it has an adapter, where the embeddings of all rows would take more than
    `MAX_BYTES`, or while arrays are only being traced, both come back as they are, and
    programs ask it whenever they run.

    **Arguments:**

    - `pipeline`: With a text encoder that nobody trains, unless it has an adapter.
    - `conditioning`: Of all rows.

    **Returns:**

    The pipeline without the arrays of its text encoder, which programs then need not be
    given, and the conditioning with its embeddings.
    """
    encoder = pipeline.text_encoder
    arrays = jax.tree.leaves((encoder, conditioning))
    if has_lora(encoder) or any(isinstance(x, Tracer) for x in arrays):
        return pipeline, conditioning
    prompts, negative = conditioning.input_ids, conditioning.negative_input_ids
    texts = [to_host(x) for x in (prompts, negative) if x is not None]
    features, itemsize = encoder.config.hidden_size, encoder.token_embedding.itemsize
    if sum(ids.size for ids in texts) * features * itemsize > MAX_BYTES:
        return pipeline, conditioning
    distinct, rows = np.unique(np.concatenate(texts), axis=0, return_inverse=True)
    embeddings = _encode(encoder, distinct)
    rows = rows.reshape(-1)
    of = lambda rows: jnp.asarray(embeddings[rows]) if len(rows) else None
    count = len(texts[0])
    conditioning = Conditioning(
        prompts, negative, conditioning.channels, of(rows[:count]), of(rows[count:])
    )
    nothing = jax.tree.map(lambda _: None, encoder)
    return eqx.tree_at(lambda p: p.text_encoder, pipeline, nothing), conditioning


def _encode(encoder: CLIPTextModel, ids: Int[np.ndarray, "texts tokens"]) -> np.ndarray:
    """Some texts after the other, gathered on the host: the device holds rows alone."""
    parts = []
    for start in range(0, len(ids), _CHUNK):
        # The last is filled up with texts that were encoded already, or with its own.
        chunk = np.resize(ids[start : start + _CHUNK], (_CHUNK, ids.shape[1]))
        parts.append(to_host(_embed(encoder, jnp.asarray(chunk))))
    return np.concatenate(parts)[: len(ids)]


@compiled()
def _embed(encoder: CLIPTextModel, input_ids: InputIds) -> TextEmbeddings:
    return encoder(input_ids)
