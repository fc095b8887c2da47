"""The rows of a table as arrays: what a compiled program is given of a batch."""

from typing import Any, TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._custom_types import InputIds, Latents, NegativeInputIds, TextEmbeddings
from ._plan import Plan


_Tree = TypeVar("_Tree")


class Conditioning(eqx.Module):
    """Holds what each image is conditioned on, one row an image.

    **Arguments:**

    - `input_ids`: Token ids of the prompts.
    - `negative_input_ids`: One row for all, or one for each; `None` where guidance is
        off.
    - `channels`: What a UNet sees beside the latents, at their resolution: of the
        table the column `conditioning_image`, encoded, or `conditioning` as it is;
        `None` for a model that sees the text alone.
    - `embeddings`, `negative_embeddings`: What the text encoder makes of the token ids,
        where it was asked before; `None` where it is to be asked.
    """

    input_ids: InputIds
    negative_input_ids: NegativeInputIds | None = None
    channels: Float[Array, "rows height width channels"] | None = None
    embeddings: TextEmbeddings | None = None
    negative_embeddings: Float[Array, "negatives tokens features"] | None = None

    def take(self, rows: Int[Array, " batch"]) -> "Conditioning":
        """Takes some of the rows, in this order."""
        negative = (self.negative_input_ids, self.negative_embeddings)
        if self.negative_input_ids is not None and len(self.negative_input_ids) > 1:
            negative = take_rows(negative, rows)
        own = (self.input_ids, self.channels, self.embeddings)
        input_ids, channels, embeddings = take_rows(own, rows)
        return Conditioning(input_ids, negative[0], channels, embeddings, negative[1])


class Batch(eqx.Module):
    """Rows that images are to be drawn for: what a compiled program is given of them.

    **Arguments:**

    - `conditioning`: Of the images, one row each.
    - `latents`: The unit-variance noise that they start from.
    - `key`: Draws all that is random after it.
    - `plan`: The options of sampling.
    - `features`: What a reward prepared of the rows; `None` for nothing, or where
        nobody judges.
    """

    conditioning: Conditioning
    latents: Latents
    key: PRNGKeyArray
    plan: Plan
    features: Any = None


def take_rows(tree: _Tree, rows: Int[Array, " batch"]) -> _Tree:
    """Takes some of the rows of every array in a tree.

    **Arguments:**

    - `tree`: Arrays whose first axis counts the rows.
    - `rows`: Their indices.
    """
    return jax.tree.map(lambda x: x[rows], tree)
