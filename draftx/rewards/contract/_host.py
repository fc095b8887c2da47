"""Rewards that are computed outside of JAX, on the host."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ..._custom_types import Images
from ..._table import Rows, Table, TEXT_COLUMNS
from ._errors import reading_columns, RewardError
from ._on_host import call_on_host
from ._reward import AbstractReward, takes_rows


class HostReward(AbstractReward):
    """Makes a reward of any function of NumPy images: files, other programs, people.

    It runs on the host in the middle of a compiled program. It has no gradient: asking
    for one is an error. `draftx.DDPO`, `draftx.RewardWeighted`, `draftx.ScoreFunction`
    and `draftx.search` need none.

    The function should be pure: it may be called again, or not again for images that it
    has just scored. It must not call JAX: a program waits for it and holds what JAX
    would compute with, and JAX may then wait for the program, for ever. So it is an
    error to hand JAX an array or a number in it; what it does in threads of its own, or
    with arrays that JAX has already, is not noticed. What JAX can trace needs no
    `HostReward`: give the function itself as the reward.

    !!! example

        ```python
        def file_size(images):  # Kilobytes as JPEG; fewer are better.
            sizes = []
            for image in (images * 255).round().astype("uint8"):
                file = io.BytesIO()
                PIL.Image.fromarray(image).save(file, "JPEG", quality=95)
                sizes.append(-len(file.getvalue()) / 1000)
            return sizes

        reward = draftx.rewards.HostReward(file_size)
        ```
    """

    fn: Callable[..., Any] = eqx.field(static=True)
    takes_rows: bool = eqx.field(static=True)

    def __init__(self, fn: Callable[..., Any]):
        if not callable(fn):
            raise ValueError(f"`fn` must be a function of images; got {fn!r}.")
        self.fn = fn
        self.takes_rows = takes_rows(fn)
        try:
            inspect.signature(fn).bind(*[None] * (1 + self.takes_rows))
        except TypeError as e:
            raise ValueError(
                f"`fn` must be a function of images, or of images and rows: {e}."
            ) from None
        except ValueError:
            pass  # Some built-in functions do not say what they take.

    __init__.__doc__ = """**Arguments:**

    - `fn`: `fn(images)`, or `fn(images, rows)`: from images
        `[batch, height, width, 3]`, float32 in $[0, 1]$, to one number for each. `rows`
        is a mapping of the table's columns with one row for each image, in which
        `"prompt"` is a list of strings. Its signature decides, as for a plain function:
        a second positional parameter without a default, or one that is named `rows`.
    """

    def prepare(self, rows: Rows) -> dict[str, Array] | None:
        if not self.takes_rows:
            return None
        # Arrays are what a compiled program can pass on: words as rows of bytes.
        table = Table.of(rows)
        words = {name: _encode(column) for name, column in table.texts.items()}
        arrays = {name: jnp.asarray(column) for name, column in table.arrays.items()}
        return words | arrays

    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        if self.takes_rows and features is None:
            raise ValueError(
                "`features` must be what `HostReward.prepare` gives: `fn` takes the "
                "rows of its images; got None. Call "
                "`reward(images, reward.prepare(rows))`."
            )
        args = (images, features) if self.takes_rows else (images,)
        return call_on_host(self.on_host, images.shape[0], *args)

    def on_host(self, images: Any, features: Any = None) -> Float[np.ndarray, " batch"]:
        """Scores images that are on the host; an error says what is wrong.

        **Arguments:**

        - `images`, `features`: As a reward is given them, as NumPy arrays.
        """
        images = np.asarray(images, np.float32)
        args: list[Any] = [images]
        rows = None
        if self.takes_rows:
            columns = {name: np.asarray(column) for name, column in features.items()}
            words = {k: _decode(columns[k]) for k in TEXT_COLUMNS if k in columns}
            rows = columns | words
            args.append(rows)
        with reading_columns(rows):
            scores = _without_jax(self.fn, args)
        if scores.shape != images.shape[:1] or scores.dtype.kind not in "fiub":
            raise ValueError(
                "`fn` must give one number for each image, shape "
                f"{images.shape[:1]}; got shape {scores.shape} of {scores.dtype}."
            )
        return scores.astype(np.float32)


def probe_host_rewards(
    reward: Any, shape: tuple[int, int, int, int], rows: Rows
) -> None:
    """Calls every `HostReward` inside of a reward once, outside of any program.

    An error in it then comes at once and as it was raised.

    **Arguments:**

    - `reward`: May be made of other rewards.
    - `shape`: Of a batch of images; it is given noise of this shape.
    - `rows`: A list of prompts or a [`draftx.Table`][], taken over and over.
    """
    table = Table.of(rows)
    is_host = lambda node: isinstance(node, HostReward)
    for node in jax.tree.leaves(reward, is_leaf=is_host):
        if isinstance(node, HostReward):
            noise = np.random.default_rng(0).uniform(size=shape)
            of_batch = table.take([i % len(table) for i in range(shape[0])])
            node.on_host(noise, node.prepare(of_batch))


def _without_jax(fn: Callable[..., Any], args: list[Any]) -> np.ndarray:
    """Calls a function; raises if it gives JAX anything to compute with."""
    try:
        with jax.transfer_guard_host_to_device("disallow_explicit"):
            return np.asarray(fn(*args))
    except jax.errors.JaxRuntimeError as e:
        if "Disallowed host-to-device transfer" not in str(e):
            raise
        raise RewardError(
            "`fn` of a HostReward must not call JAX: a program waits for it, and JAX "
            "may wait for that program, for ever. Use NumPy or another library; or, if "
            "JAX can trace the function, give it as the reward itself, without "
            f"HostReward. JAX said: {str(e).splitlines()[0]}"
        ) from e


def _encode(texts: list[str]) -> UInt8[Array, "rows bytes"]:
    encoded = [text.encode() for text in texts]
    width = max(map(len, encoded), default=0)
    padded = [list(text.ljust(width, b"\0")) for text in encoded]
    return jnp.asarray(np.asarray(padded, np.uint8).reshape(len(encoded), width))


def _decode(rows: UInt8[np.ndarray, "rows bytes"]) -> list[str]:
    return [bytes(row).rstrip(b"\0").decode() for row in rows]
