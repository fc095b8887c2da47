"""How far images are from each other, place by place, to the eye of a network."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._custom_types import Images
from ..contract import RewardError
from ._distance import AbstractDistance
from ._lpips import unit
from ._network import default_preprocess, in_words, is_of, Preprocess, what_it_sees


class TokenDistance(AbstractDistance):
    r"""Measures how far the features of two images point apart, place by place.

    $$d(x, y) = \operatorname{mean}_l \operatorname{mean}_p
        \bigl(1 - \cos(f_{lp}(x), f_{lp}(y))\bigr)$$

    from 0 to 2, over the tokens or the places $p$ of one or several maps $l$: patch
    tokens of a transformer, maps of a convolutional network. Where
    [`draftx.rewards.FeatureDistance`][] of pooled features asks for the same kind of
    thing, this asks for the same things at the same places. With maps of several
    depths it has the form of LPIPS, with equal weights in place of fitted ones:

        lite0 = draftx.rewards.load("efficientnet-lite0", options={"target": 0})
        distance = TokenDistance(lite0.classifier.feature_maps)

    and with the tokens of a CLIP, class and patches, normed after its last layer:

        clip = draftx.rewards.load("clip")
        distance = TokenDistance(clip.model.vision_model.hidden_states)
    """

    network: Callable[..., Any]
    preprocess: Preprocess
    depths: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        network: Callable[..., Any],
        *,
        depths: tuple[int, ...] | None = None,
        preprocess: Preprocess | Literal["auto"] = "auto",
    ):
        """**Arguments:**

        - `network`: Preprocessed images to tokens `[batch, tokens, features]`, to a map
            `[batch, height, width, features]`, or to a list of such, such as the method
            `hidden_states` of a CLIP's `vision_model` or `feature_maps` of a
            classifier.
        - `depths`: Which of a list are compared, from 0; -1 is the last. `None` is all.
        - `preprocess`: As in [`draftx.rewards.ClassifierReward`][]: `"auto"` is known
            of the networks above and of their methods, not of functions around them.
            What `load` gives has its own as `reward.preprocess`.
        """
        if not callable(network):
            raise ValueError(
                "`network` must be a function of images that gives tokens or maps; got "
                f"{type(network).__name__}."
            )
        whole = isinstance(depths, tuple) and all(isinstance(i, int) for i in depths)
        if depths is not None and not (depths and whole):
            raise ValueError(
                f"`depths` must be None or a tuple of whole numbers; got {depths!r}."
            )
        self.network = network
        self.preprocess = default_preprocess(network, preprocess)
        self.depths = depths

    def features(self, images: Images) -> list[Float[Array, "batch _ _"]]:
        """Computes what is compared, of norm one at every place, in float32."""
        given = what_it_sees(self.network, self.preprocess, images)
        maps = list(given) if isinstance(given, list | tuple) else [given]
        depths = range(len(maps)) if self.depths is None else self.depths
        if maps and any(not -len(maps) <= i < len(maps) for i in depths):
            raise ValueError(
                f"`depths` must be of the {len(maps)} maps that `network` gives, "
                f"from {-len(maps)} to {len(maps) - 1}; got {self.depths}."
            )
        # An empty list has none of any depth.
        maps = maps and [maps[i] for i in depths]
        if not maps or any(not is_of(images, x, axes=3) for x in maps):
            raise RewardError(
                "`network` must give tokens (batch, tokens, features) or maps (batch, "
                "height, width, features), floats, or a list of such, of "
                f"{len(images)} images; got {in_words(given)}. Use `FeatureDistance` "
                "for features without a place."
            )
        flat = lambda x: x.reshape(len(x), -1, x.shape[-1]).astype(jnp.float32)
        return [unit(flat(x)) for x in maps]

    def between(
        self,
        x: list[Float[Array, "batch _ _"]],
        y: list[Float[Array, "#batch _ _"]],
    ) -> Float[Array, " batch"]:
        """Measures the distances between what `features` gave.

        **Arguments:**

        - `x`, `y`: From `features`, of as many images.
        """
        # Of unit vectors, half the squared distance is one minus the cosine.
        apart = [
            0.5 * jnp.mean(jnp.sum(jnp.square(a - b), axis=-1), axis=-1)
            for a, b in zip(x, y, strict=True)
        ]
        return sum(apart[1:], apart[0]) / len(apart)
