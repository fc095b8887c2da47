"""The gated activation of a transformer's feed-forward layer, with one VJP."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._dtypes import at_least_float32


def geglu_reference(
    x: Float[Array, "*batch two_inner"],
) -> Float[Array, "*batch two_inner//2"]:
    """Gates features as `geglu` does: its definition, for tests. Never optimized.

    **Arguments:**

    - `x`: As for `geglu`.
    """
    dtype = at_least_float32(x.dtype)
    value, gate = jnp.split(x.astype(dtype), 2, axis=-1)
    return (value * jax.nn.gelu(gate, approximate=False)).astype(x.dtype)


def _split(x):
    return jnp.split(x.astype(at_least_float32(x.dtype)), 2, axis=-1)


def _normal_cdf(x):
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _forward(value, gate):
    return value * gate * _normal_cdf(gate)


def _backward(value, gate, d_out):
    d_out = d_out.astype(value.dtype)
    cdf = _normal_cdf(gate)
    density = jnp.exp(-0.5 * gate * gate) / math.sqrt(2 * math.pi)
    return d_out * gate * cdf, d_out * value * (cdf + gate * density)


@jax.custom_vjp
def _geglu(x):
    value, gate = _split(x)
    return _forward(value, gate).astype(x.dtype)


def _fwd(x):
    return _geglu(x), x


def _bwd(x, d_out):
    value, gate = _split(x)
    d_x = jnp.concatenate(_backward(value, gate, d_out), axis=-1).astype(x.dtype)
    # Several products read it: XLA would write its halves, and put them together for
    # each of these.
    return (jax.lax.optimization_barrier(d_x),)


_geglu.defvjp(_fwd, _bwd)


def _wide(value, gate):
    dtype = at_least_float32(value.dtype)
    return value.astype(dtype), gate.astype(dtype)


@jax.custom_vjp
def _gated(value, gate):
    return _forward(*_wide(value, gate)).astype(value.dtype)


def _gated_fwd(value, gate):
    return _gated(value, gate), (value, gate)


def _gated_bwd(halves, d_out):
    d_value, d_gate = _backward(*_wide(*halves), d_out)
    return d_value.astype(halves[0].dtype), d_gate.astype(halves[1].dtype)


_gated.defvjp(_gated_fwd, _gated_bwd)


def geglu(x: Float[Array, "*batch two_inner"]) -> Float[Array, "*batch two_inner//2"]:
    r"""Gates one half of the features, `[..., 2 * inner]`, by the GELU of the other.

    $$x_1 \odot x_2\,\Phi(x_2), \qquad
    \Phi(z) = \tfrac12\big(1 + \mathrm{erf}(z / \sqrt 2)\big)$$

    **Arguments:**

    - `x`: Values $x_1$, then gates $x_2$, along the last axis.

    **Returns:**

    An array like one half of `x`, computed in at least float32.

    **Backward:** saves `x`, and evaluates $\Phi$ a second time.

    ??? cite

        [GLU Variants Improve Transformer](https://arxiv.org/abs/2002.05202)
    """
    if x.shape[-1] % 2 != 0:
        raise ValueError(
            f"`x` must have an even number of features; got shape {x.shape}."
        )
    return _geglu(x)


def geglu_of_halves(
    value: Float[Array, "*batch inner"], gate: Float[Array, "*batch inner"]
) -> Float[Array, "*batch inner"]:
    r"""Gates values, `[..., inner]`, as `geglu` does, given as two arrays.

    **Arguments:**

    - `value`, `gate`: The two halves of the argument of `geglu`.

    **Returns:**

    An array like `value`.

    **Backward:** saves both, and evaluates $\Phi$ a second time.
    """
    return _gated(value, gate)
