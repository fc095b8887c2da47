import abc

import equinox as eqx
from jaxtyping import Array, Float

from .._custom_types import Images


class AbstractReward(eqx.Module):
    """Scores images. Larger is better; every reward is differentiable in `images`."""

    @abc.abstractmethod
    def __call__(self, images: Images) -> Float[Array, " batch"]:
        """**Arguments:**

        - `images`: Channels last, in $[0, 1]$.

        **Returns:**

        One score per image, in float32, not averaged over the batch.
        """
