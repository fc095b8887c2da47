import abc
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..._custom_types import Images, Prompts


Tree = TypeVar("Tree")


class AbstractReward(eqx.Module):
    """Scores images. Larger is better; every reward is differentiable in `images`."""

    def prepare(self, prompts: Prompts) -> Any:
        """What `__call__` is given of the prompts: arrays with one row for each.

        Called on the host, once for a set of prompts: words become numbers here, and
        what does not depend on the images is computed here. `None`, which is what this
        method gives unless a reward has its own, stands for a reward that looks at the
        images alone.
        """
        del prompts
        return None

    @abc.abstractmethod
    def __call__(self, images: Images, prompts: Any = None) -> Float[Array, " batch"]:
        """**Arguments:**

        - `images`: Channels last, in $[0, 1]$.
        - `prompts`: The rows of `prepare` for these images, or `None`.

        **Returns:**

        One score per image, in float32, not averaged over the batch.
        """


class AbstractRandomReward(AbstractReward):
    """A reward that draws random numbers, all of them from `key`.

    It is a function of the images nonetheless: with the same key it gives the same
    scores. [`draftx.rewards.with_key`][] gives it another.
    """

    key: eqx.AbstractVar[PRNGKeyArray]


def with_key(reward: Tree, key: PRNGKeyArray) -> Tree:
    """A reward with new random numbers, however deep in it they are drawn.

    Meant to be called in every step of a training, inside `jit`. A reward that draws
    none, or that is a plain function, stays as it is.

    **Arguments:**

    - `reward`: May be made of other rewards.
    - `key`: Each reward that draws is given a key of its own out of it.
    """
    is_random = lambda node: isinstance(node, AbstractRandomReward)
    nodes, treedef = jax.tree.flatten(reward, is_leaf=is_random)
    for i, node in enumerate(nodes):
        if is_random(node):
            nodes[i] = eqx.tree_at(lambda r: r.key, node, jr.fold_in(key, i))
    return jax.tree.unflatten(treedef, nodes)
