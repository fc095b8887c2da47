"""A grid of density and color, seen by parallel rays: emission and absorption.

The color of a pixel is that of what its ray meets, each weighed by how much of it is
absorbed there and how little before, and of the background for what is left:

    c = sum_k T_k (1 - exp(-s_k d)) c_k + T_end c_0,   T_k = exp(-sum_{j<k} s_j d)

Cameras turn about the vertical axis, so a view is a product of matrices: one says what
each point of a horizontal slice is interpolated from, another does so for the heights.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray


Grid = dict[str, Float[Array, "x y z channels"]]


def make_grid(
    key: PRNGKeyArray, size: int = 32, *, radius: float = 0.6, noise: float = 0.1
) -> Grid:
    """Makes a faint ball of gray, from -1 to 1 in each of x, y (down) and z (away).

    **Arguments:**

    - `size`: Points along each axis.
    - `radius`: Of the ball.
    - `noise`: Deviation of what its numbers differ by.
    """
    line = jnp.linspace(-1, 1, size)
    x, y, z = jnp.meshgrid(line, line, line, indexing="ij")
    distance = jnp.sqrt(x**2 + y**2 + z**2)
    density_key, color_key = jr.split(key)
    shape = (size, size, size)
    density = 8 * (radius - distance) + noise * jr.normal(density_key, shape)
    return {
        "density": density[..., None],
        "color": noise * jr.normal(color_key, (*shape, 3)),
    }


def views(
    grid: Grid,
    angles: Float[Array, " views"],
    background: Float[Array, "views 3"],
    *,
    size: int = 64,
    samples: int = 32,
) -> tuple[Float[Array, "views size size 3"], Float[Array, "views size size"]]:
    """Renders images in [0, 1] and depths in [0, 1], 0 near and 1 the background.

    **Arguments:**

    - `angles`: Of the cameras about the vertical axis, in radians; 0 is the front.
    - `background`: Behind the grid, one color a view.
    - `size`: Of the images in pixels.
    - `samples`: Points along each ray.
    """
    density, color = (_smooth(grid[name]) for name in ("density", "color"))
    density = jax.nn.softplus(density)
    # What is interpolated is what is emitted: color times density.
    emitted = jnp.concatenate([density, density * jax.nn.sigmoid(color)], -1)
    line, depth = (jnp.linspace(-1, 1, n) for n in (size, samples))
    heights = _hats(line, len(density))

    def view(angle, background):
        across, away = jnp.meshgrid(line, depth, indexing="ij")
        x = across * jnp.cos(angle) + away * jnp.sin(angle)
        z = away * jnp.cos(angle) - across * jnp.sin(angle)
        near = [_hats(axis.ravel(), len(density)) for axis in (x, z)]
        matrix = near[0][:, :, None] * near[1][:, None, :]
        seen = jnp.einsum("pxz,xyzc->pyc", matrix, emitted)
        seen = jnp.einsum("hy,pyc->hpc", heights, seen)
        seen = seen.reshape(size, size, samples, 4)
        return _composite(seen[..., 0], seen[..., 1:], background)

    return jax.lax.map(lambda args: view(*args), (angles, background))


def _hats(at: Float[Array, " points"], size: int) -> Float[Array, "points size"]:
    """Weights of linear interpolation in a line from -1 to 1; none outside of it."""
    places = (at[:, None] + 1) / 2 * (size - 1)
    points = jnp.arange(size, dtype=places.dtype)
    return jnp.maximum(1 - jnp.abs(places - points[None]), 0)


def _smooth(x: Float[Array, "x y z channels"]) -> Float[Array, "x y z channels"]:
    """The mean of every point and its neighbors: points alone make speckles."""
    for axis in range(3):
        ends = [(int(i == axis), int(i == axis)) for i in range(4)]
        wide = jnp.pad(x, ends, mode="edge")
        before, after = (
            jax.lax.slice_in_dim(wide, i, i + x.shape[axis], axis=axis) for i in (0, 2)
        )
        x = (before + 2 * x + after) / 4
    return x


def _composite(
    density: Float[Array, "h w samples"],
    emitted: Float[Array, "h w samples 3"],
    background: Float[Array, " 3"],
) -> tuple[Float[Array, "h w 3"], Float[Array, "h w"]]:
    samples = density.shape[-1]
    absorbed = density * (16 / samples)
    passed = jnp.exp(-jnp.cumsum(absorbed, axis=-1))
    before = jnp.concatenate([jnp.ones_like(passed[..., :1]), passed[..., :-1]], -1)
    weights = before - passed
    color = emitted / jnp.maximum(density, 1e-6)[..., None]
    left = passed[..., -1]
    image = jnp.sum(weights[..., None] * color, axis=2)
    image = image + left[..., None] * background[None, None]
    depths = jnp.linspace(0, 1, samples)[None, None]
    return image, jnp.sum(weights * depths, axis=-1) + left
