"""What a reward is: scores of images, given what it prepared of their rows."""

import abc
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..._custom_types import Images
from ..._keys import check_key
from ..._table import Rows, Table
from ._errors import reading_columns, traced_by_jax


Tree = TypeVar("Tree")

# Gives one score an image, larger is better: an `AbstractReward`, or any function of
# images, or of images and the rows' arrays. `as_reward` makes the first of the others.
Reward: TypeAlias = Callable[..., Float[Array, " batch"]]


class Scores(eqx.Module):
    """Holds one score an image, and besides those of the rewards that it is made of.

    JAX's and NumPy's functions take it for the array `total`.

    **Arguments:**

    - `total`: What is sought, one score an image.
    - `components`: Scores of the same images by name, not weighted. They pass no
        gradient.
    """

    total: Any  # What a stranger's function gives is for `check_scores` to judge.
    components: dict[str, Array] = eqx.field(default_factory=dict)

    def __jax_array__(self) -> Array:
        return jnp.asarray(self.total)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.total, dtype, copy=copy)


class AbstractReward(eqx.Module):
    """Scores images. Larger is better; every reward is differentiable in `images`."""

    def prepare(self, rows: Rows) -> Any:
        """Prepares the features of rows on the host: arrays with one row for each.

        Called once for a table of prompts: words become numbers here, and what does not
        depend on the images is computed here. `None`, which is what this method gives
        unless a reward has its own, stands for a reward that looks at the images alone.

        **Arguments:**

        - `rows`: A list of prompts or a [`draftx.Table`][]; `Table.of` makes the second
            of the first. `rows["prompt"]` are its prompts, `rows["reference"]` a column
            of that name.
        """
        del rows
        return None

    @abc.abstractmethod
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        """Scores images, one number for each.

        **Arguments:**

        - `images`: Channels last, in $[0, 1]$.
        - `features`: The rows of `prepare` for these images, or `None`.

        **Returns:**

        One score an image, in float32, not averaged over the batch.
        """

    def judge(self, images: Images, features: Any = None) -> Scores:
        """Scores images, and says what the scores are made of.

        Unless a reward has its own, of nothing else. The history of a training has mean
        and spread of every component.

        **Arguments:**

        - `images`, `features`: Of the call.

        **Returns:**

        The scores of the call, and those of the components: all of one evaluation.
        """
        return Scores(self(images, features))


class FunctionReward(AbstractReward):
    """Makes a reward of a function of images, or of images and their rows' arrays."""

    fn: Callable[..., Any]
    takes_rows: bool = eqx.field(static=True)

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn
        self.takes_rows = takes_rows(fn)

    __init__.__doc__ = """**Arguments:**

    - `fn`: `fn(images)`, or `fn(images, rows)` with `rows` a mapping of the table's
        columns to arrays with one row for each image. Its signature decides: a second
        positional parameter without a default, or one that is named `rows`.
    """

    def prepare(self, rows: Rows) -> dict[str, Array] | None:
        if not self.takes_rows:
            return None
        arrays = Table.of(rows).arrays
        return {name: jnp.asarray(column) for name, column in arrays.items()}

    # What a stranger's function gives is for `check_scores` to judge.
    def __call__(self, images: Images, features: Any = None) -> Any:
        if self.takes_rows and features is None:
            raise ValueError(
                "`features` must be what `prepare` gives: this function takes the rows "
                "of its images; got None. Call "
                "`reward(images, reward.prepare(rows))` of `as_reward(fn)`."
            )
        args = (images, features) if self.takes_rows else (images,)
        with traced_by_jax(), reading_columns(features if self.takes_rows else None):
            return self.fn(*args)


def as_reward(reward: Reward) -> AbstractReward:
    """Makes a reward of any function, and leaves one as it is.

    **Arguments:**

    - `reward`: An `AbstractReward`, or what `FunctionReward` takes.
    """
    if isinstance(reward, AbstractReward):
        return reward
    if not callable(reward):
        raise ValueError(
            "`reward` must be a function of images or a reward; got "
            f"{type(reward).__name__}."
        )
    return FunctionReward(reward)


class AbstractRandomReward(AbstractReward):
    """Scores images with random numbers, all of them drawn from `key`.

    It is a function of the images nonetheless: with the same key it gives the same
    scores. [`draftx.rewards.with_key`][] gives it another.
    """

    key: eqx.AbstractVar[PRNGKeyArray]


def with_key(reward: Tree, key: PRNGKeyArray) -> Tree:
    """Gives a reward new random numbers, however deep in it they are drawn.

    Meant to be called in every step of a training, inside `jit`. A reward that draws
    none, or that is a plain function, stays as it is.

    **Arguments:**

    - `reward`: May be made of other rewards.
    - `key`: Each reward that draws is given a key of its own out of it.
    """
    check_key(key)
    is_random = lambda node: isinstance(node, AbstractRandomReward)
    nodes, treedef = jax.tree.flatten(reward, is_leaf=is_random)
    for i, node in enumerate(nodes):
        if is_random(node):
            nodes[i] = eqx.tree_at(lambda r: r.key, node, jr.fold_in(key, i))
    return jax.tree.unflatten(treedef, nodes)


def takes_rows(fn: Callable[..., Any]) -> bool:
    """Tells from its signature whether a function of images also wants their rows.

    It does if its second positional parameter has no default, or is named `rows`.
    """
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # Some built-in functions do not say.
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in parameters if p.kind in kinds]
    if len(positional) < 2:
        return False
    second = positional[1]
    return second.name == "rows" or second.default is inspect.Parameter.empty
