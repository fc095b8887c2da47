import dataclasses

import numpy as np
from jaxtyping import Array, Float

from .._custom_types import Images, Latents
from ..episodes import Budget


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """Holds what a search has found: one image for each prompt.

    **Arguments:**

    - `images`, `rewards`: The images, and their scores.
    - `latents`: The starting noise of the images.
    - `clean_latents`: What the images were decoded from.
    - `history`: All the scores that were compared, the latest in the last row.
    - `budget`: What the search has cost.
    - `stopped`: The name of the signal that ended the search before its last step, or
        `None`. It had been saved, and the images are the best that there were.
    """

    images: Images
    rewards: Float[Array, " batch"]
    latents: Latents
    clean_latents: Latents
    history: Float[np.ndarray, "compared batch"]
    budget: Budget
    stopped: str | None = None
