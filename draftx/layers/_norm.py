import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..kernels import group_norm, layer_norm


class GroupNorm(eqx.Module):
    """Normalizes the channels of a feature map in groups.

    Optionally fused with the SiLU that follows.
    """

    weight: Float[Array, " channels"]
    bias: Float[Array, " channels"]
    num_groups: int = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        *,
        num_groups: int,
        epsilon: float,
        dtype: jnp.dtype | type = jnp.float32,
    ):
        """**Arguments:**

        - `channels`: Size of the last axis.
        - `num_groups`: Must divide `channels`.
        - `epsilon`: Added to the variance.
        - `dtype`: Of the weight and the bias.
        """
        if channels % num_groups != 0:
            raise ValueError(
                "`num_groups` (`norm_num_groups` in a config) must divide the number "
                f"of channels; got num_groups={num_groups}, channels={channels}."
            )
        self.weight = jnp.ones(channels, dtype)
        self.bias = jnp.zeros(channels, dtype)
        self.num_groups = num_groups
        self.epsilon = epsilon

    @jax.named_scope("group_norm")
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, silu: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Normalizes a feature map `[batch, height, width, channels]`.

        **Arguments:**

        - `x`: Activations, channels last.
        - `silu`: Whether to apply SiLU to the result.
        """
        return group_norm(
            x,
            self.weight,
            self.bias,
            num_groups=self.num_groups,
            epsilon=self.epsilon,
            silu=silu,
        )


class LayerNorm(eqx.Module):
    """Normalizes the last axis of activations, with statistics in at least float32."""

    weight: Float[Array, " features"]
    bias: Float[Array, " features"]
    epsilon: float = eqx.field(static=True)

    def __init__(
        self,
        features: int,
        *,
        epsilon: float = 1e-5,
        dtype: jnp.dtype | type = jnp.float32,
    ):
        """**Arguments:**

        - `features`: Size of the last axis.
        - `epsilon`: Added to the variance.
        - `dtype`: Of the weight and the bias.
        """
        self.weight = jnp.ones(features, dtype)
        self.bias = jnp.zeros(features, dtype)
        self.epsilon = epsilon

    @jax.named_scope("layer_norm")
    def __call__(
        self, x: Float[Array, "*batch features"]
    ) -> Float[Array, "*batch features"]:
        """Normalizes activations `[..., features]`."""
        return layer_norm(x, self.weight, self.bias, epsilon=self.epsilon)
