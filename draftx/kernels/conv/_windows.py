import jax.lax as lax
import jax.numpy as jnp


def windows(x, weight, stride, padding):
    """What each element of the window sees of the padded `x`, row by row."""
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    rows, columns = weight.shape[:2]
    height = (x.shape[1] - rows) // stride + 1
    width = (x.shape[2] - columns) // stride + 1
    return [
        lax.slice(
            x,
            (0, i, j, 0),
            (
                x.shape[0],
                i + stride * (height - 1) + 1,
                j + stride * (width - 1) + 1,
                x.shape[3],
            ),
            (1, stride, stride, 1),
        )
        for i in range(rows)
        for j in range(columns)
    ]
