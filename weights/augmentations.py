"""What images are put through before a network is trained to say what they show.

A diffusion model's images are a little blurred, noisy or off in color, and one that
is being fine-tuned may draw much worse ones: a network that judges them has to have
seen as much.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scenes import SIZE


def _smoothings() -> Float[Array, "smoothings 64 64"]:
    """Matrices that smooth a row of pixels: blurs, and scalings down and up again."""
    eye = jnp.eye(SIZE)
    pixels = np.arange(SIZE, dtype=np.float32)
    distance = pixels[:, None] - pixels
    blurs = [np.exp(-0.5 * (distance / sigma) ** 2) for sigma in (0.5, 0.8, 1.2, 1.7)]
    blurs = [blur / blur.sum(1, keepdims=True) for blur in blurs]
    small = [jax.image.resize(eye, (n, SIZE), "cubic") for n in (20, 26, 32, 44)]
    scalings = [jax.image.resize(x, eye.shape, "linear") for x in small]
    return jnp.stack([eye, eye, *blurs, *scalings])


def _cosines() -> np.ndarray:
    """The discrete cosine transform of a row of pixels, eight at a time."""
    n = np.arange(8)
    block = 0.5 * np.cos(np.pi * n[:, None] * (2 * n + 1) / 16)
    block[0] /= np.sqrt(2)
    return np.kron(np.eye(SIZE // 8), block).astype(np.float32)


def _both_axes(matrix, images):
    return jnp.einsum("...ij,...kl,...jlc->...ikc", matrix, matrix, images)


def augment(
    images: Float[Array, "batch height width 3"], key: PRNGKeyArray
) -> Float[Array, "batch height width 3"]:
    """Other tints, noise, smoothing and compression, each image its own."""
    keys = jr.split(key, 8)
    per_image = (len(images), 1, 1, 1)
    tint = jr.uniform(keys[0], (len(images), 1, 1, 3), minval=0.94, maxval=1.06)
    shift = jr.uniform(keys[1], per_image, minval=-0.03, maxval=0.03)
    images = images * tint + shift

    def noise(key):
        scale = jr.uniform(jr.fold_in(key, 0), per_image, maxval=0.05)
        return scale * jr.normal(jr.fold_in(key, 1), images.shape)

    # Noise that is smoothed afterwards is the texture of an unfinished image.
    smoothing = jr.choice(keys[2], _smoothings(), (len(images),))
    images = _both_axes(smoothing, images + noise(keys[3]))
    # Like JPEG: cosines in steps that are coarser for finer waves. A fifth of the
    # images lose nearly all but the broad shapes.
    frequency = np.arange(SIZE) % 8
    weight = (1 + frequency[:, None] + frequency)[None, :, :, None]
    strong = jr.bernoulli(keys[4], 0.2, per_image)
    step = jnp.where(strong, 0.2, 0.04) * jr.uniform(keys[5], per_image, minval=0.02)
    step = step * weight.astype(np.float32)
    waves = _both_axes(_cosines(), images)
    images = _both_axes(_cosines().T, step * jnp.round(waves / step))
    noisy = jr.bernoulli(keys[6], 0.5, per_image)
    images = images + jnp.where(noisy, noise(keys[7]), 0.0)
    return jnp.clip(images, 0.0, 1.0)
