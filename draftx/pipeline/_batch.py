"""The rows of a table as arrays: what a compiled program is given of a batch."""

from typing import Any, TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._custom_types import InputIds, Latents, NegativeInputIds
from ._plan import Plan


_Tree = TypeVar("_Tree")


class Conditioning(eqx.Module):
    """Holds what each image is conditioned on, one row an image.

    **Arguments:**

    - `input_ids`: Token ids of the prompts.
    - `negative_input_ids`: One row for all, or one for each; `None` where guidance is
        off.
    - `channels`: What a UNet sees beside the latents, at their resolution: the column
        `conditioning` of the table, `None` for a model that sees no image.
    """

    input_ids: InputIds
    negative_input_ids: NegativeInputIds | None = None
    channels: Float[Array, "rows height width channels"] | None = None

    def take(self, rows: Int[Array, " batch"]) -> "Conditioning":
        """Takes some of the rows, in this order."""
        negative = self.negative_input_ids
        if negative is not None and negative.shape[0] > 1:
            negative = negative[rows]
        return Conditioning(
            self.input_ids[rows], negative, take_rows(self.channels, rows)
        )


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
