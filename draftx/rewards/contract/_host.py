import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._custom_types import Images, Prompts
from ._reward import AbstractReward


class HostReward(AbstractReward):
    """Any function of NumPy images as a reward: files, other programs, people.

    It runs on the host in the middle of a compiled program. It has no gradient: asking
    for one is an error. `draftx.DDPO`, `draftx.RewardWeighted`, `draftx.ScoreFunction`
    and `draftx.search` need none.

    The function should be pure, may be called again, and must not call JAX itself.

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
    with_prompts: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        """**Arguments:**

        - `fn`: From images `[batch, height, width, 3]`, float32 in $[0, 1]$, to one
            number for each.
        - `with_prompts`: Whether `fn` is also given the list of prompts.
        """
        if not callable(self.fn):
            raise ValueError(f"`fn` must be a function of images; got {self.fn!r}.")
        try:
            inspect.signature(self.fn).bind(*[None] * (1 + self.with_prompts))
        except TypeError as e:
            wanted = "images and prompts" if self.with_prompts else "images"
            raise ValueError(f"`fn` must be a function of {wanted}: {e}.") from None
        except ValueError:
            pass  # Some built-in functions do not say what they take.

    def prepare(self, prompts: Prompts) -> Any:
        # Arrays are what a compiled program can pass on: words as rows of bytes.
        if not self.with_prompts:
            return None
        encoded = [prompt.encode() for prompt in prompts]
        width = max(map(len, encoded), default=0)
        rows = [list(text.ljust(width, b"\0")) for text in encoded]
        return jnp.asarray(np.asarray(rows, np.uint8).reshape(len(encoded), width))

    def __call__(self, images: Images, prompts: Any = None) -> Float[Array, " batch"]:
        shape = jax.ShapeDtypeStruct(images.shape[:1], jnp.float32)
        args = (images,) if prompts is None else (images, prompts)
        return jax.pure_callback(self.on_host, shape, *args)

    def on_host(self, images: Any, prompts: Any = None) -> Float[np.ndarray, " batch"]:
        """The scores of images that are on the host; an error says what is wrong."""
        images = np.asarray(images, np.float32)
        args: list[Any] = [images]
        if self.with_prompts:
            rows = np.asarray(prompts, np.uint8)
            args.append([bytes(row).rstrip(b"\0").decode() for row in rows])
        scores = np.asarray(self.fn(*args))
        if scores.shape != images.shape[:1] or scores.dtype.kind not in "fiub":
            raise ValueError(
                "`fn` must give one number for each image, shape "
                f"{images.shape[:1]}; got shape {scores.shape} of {scores.dtype}."
            )
        return scores.astype(np.float32)


def probe_host_rewards(
    reward: Any, shape: tuple[int, int, int, int], prompts: Prompts
) -> None:
    """Calls every `HostReward` inside of a reward once, outside of any program.

    It is given noise of this shape, and the prompts over and over. An error in it then
    comes at once and as it was raised.
    """
    is_host = lambda node: isinstance(node, HostReward)
    for node in jax.tree.leaves(reward, is_leaf=is_host):
        if isinstance(node, HostReward):
            noise = np.random.default_rng(0).uniform(size=shape)
            words = [prompts[i % len(prompts)] for i in range(shape[0])]
            node.on_host(noise, node.prepare(words))
