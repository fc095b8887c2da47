"""Particles: several chains for each image, weighed and drawn anew on their way."""

from typing import Any, get_args, Literal, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ._ahead import Ahead


Potential: TypeAlias = Literal["difference", "max", "sum"]
_Tree = TypeVar("_Tree")
_Each: TypeAlias = Float[Array, "particles batch"]


class Rules(eqx.Module):
    """Says how particles are weighed, and when they are drawn anew.

    **Arguments:**

    - `num_particles`, `temperature`, `potential`, `tempering`, `resample_below`: As for
        `draftx.search.smc`.
    """

    num_particles: int = eqx.field(static=True)
    temperature: float = eqx.field(static=True)
    potential: Potential = eqx.field(static=True)
    tempering: float = eqx.field(static=True)
    resample_below: float = eqx.field(static=True)

    def __check_init__(self):
        if self.potential not in get_args(Potential):
            raise ValueError(
                f"`potential` must be one of {list(get_args(Potential))}; got "
                f"{self.potential!r}."
            )

    def share(self, index: Int[Array, ""]) -> Float[Array, ""]:
        """Computes how much of the reward counts before step `index`."""
        if self.tempering == 0:
            return jnp.ones(())
        steps = index.astype(jnp.float32)
        return jnp.minimum(1.0, (1.0 + self.tempering) ** steps - 1.0)


class Particles(eqx.Module):
    """Holds particles on their way, each array with an axis of them in front.

    **Arguments:**

    - `ahead`: Where their chains stand.
    - `origin`: Which starting noise each goes back to.
    - `remembered`: What the potential remembers of the values on the way.
    - `paid`: The logarithms of all potentials of a particle and those before it.
    - `log_weights`: Since the particles were last drawn anew.
    """

    ahead: Ahead
    origin: Int[Array, "particles batch"]
    remembered: _Each
    paid: _Each
    log_weights: _Each

    @classmethod
    def begin(cls, ahead: Ahead, rules: Rules) -> "Particles":
        """Makes particles that have not been weighed yet.

        **Arguments:**

        - `ahead`: Where they stand.
        - `rules`: What the potential is.
        """
        size, batch = ahead.state.latents.shape[:2]
        nothing = jnp.zeros((size, batch))
        origin = jnp.broadcast_to(jnp.arange(size)[:, None], (size, batch))
        lowest = jnp.full_like(nothing, -jnp.inf)
        remembered = lowest if rules.potential == "max" else nothing
        return cls(ahead, origin, remembered, nothing, nothing)

    def weighed(self, rules: Rules, worth: _Each, index: Int[Array, ""]) -> "Particles":
        r"""Weighs particles by what they are worth before step `index`.

        **Arguments:**

        - `rules`: Which potential, at which temperature.
        - `worth`: Values of the particles. One that is not finite ends its particle.
        - `index`: Of the step.
        """
        scale = rules.share(index) / rules.temperature
        if rules.potential == "difference":
            remembered, log_potential = worth, scale * worth - self.paid
        else:
            merge = jnp.maximum if rules.potential == "max" else jnp.add
            remembered = merge(self.remembered, worth)
            log_potential = scale * remembered
        return self._with(worth, remembered, log_potential)

    def rewarded(self, rules: Rules, rewards: _Each) -> "Particles":
        r"""Weighs particles at their end, so that $e^{r / \alpha}$ is all that counted.

        **Arguments:**

        - `rules`: At which temperature.
        - `rewards`: Of the images of the particles.
        """
        due = rewards / rules.temperature - self.paid
        return self._with(rewards, self.remembered, due)

    def _with(self, known: _Each, remembered: _Each, log_potential: _Each):
        is_known = jnp.isfinite(known)
        where = lambda p: (p.remembered, p.paid, p.log_weights)
        new = (
            jnp.where(is_known, remembered, self.remembered),
            jnp.where(is_known, self.paid + log_potential, self.paid),
            jnp.where(is_known, self.log_weights + log_potential, -jnp.inf),
        )
        return eqx.tree_at(where, self, new)

    def drawn_anew(self, rules: Rules, key: PRNGKeyArray) -> "Particles":
        """Draws the particles of each image anew where few of them carry the weight.

        **Arguments:**

        - `rules`: When.
        - `key`: Draws them.
        """
        weights = normalized(self.log_weights)
        size, batch = weights.shape
        is_due = effective_size(weights) < rules.resample_below * size
        offsets = jr.uniform(key, (batch,))
        drawn = jax.vmap(systematic, in_axes=1, out_axes=1)(weights, offsets[None])
        ancestors = jnp.where(is_due[None], drawn, jnp.arange(size)[:, None])
        kept = take(self, ancestors)
        log_weights = jnp.where(is_due[None], 0.0, jnp.log(weights))
        return eqx.tree_at(lambda p: p.log_weights, kept, log_weights)


def take(tree: _Tree, chosen: Int[Array, "*taken batch"]) -> _Tree:
    """Takes particles of each image, one or several, of every array in a tree.

    **Arguments:**

    - `tree`: Arrays with axes of particles and of images.
    - `chosen`: Which, for each image.
    """
    columns = jnp.arange(chosen.shape[-1])
    columns = jnp.broadcast_to(columns, chosen.shape)
    one: Any = lambda x: x[chosen, columns]
    return jax.tree.map(one, tree)


def normalized(log_weights: _Each) -> _Each:
    """Makes weights that add up to 1 of their logarithms; equal ones if all are 0."""
    top = jnp.max(log_weights, axis=0, keepdims=True)
    weights = jnp.exp(jnp.where(jnp.isfinite(top), log_weights - top, 0.0))
    return weights / jnp.sum(weights, axis=0, keepdims=True)


def effective_size(weights: _Each) -> Float[Array, " batch"]:
    r"""Computes the effective sample size, $1 / \sum_i w_i^2$, of `weights`."""
    return 1 / jnp.sum(weights**2, axis=0)


def systematic(
    weights: Float[Array, " particles"], offset: Float[Array, "1"]
) -> Int[Array, " particles"]:
    r"""Draws as many particles as there are by systematic resampling.

    Of $N$ particles each is drawn $\lfloor N w_i \rfloor$ or $\lceil N w_i \rceil$
    times, $N w_i$ in the mean, with one random number for all.

    **Arguments:**

    - `weights`: Adding up to 1.
    - `offset`: Uniform in [0, 1).

    ??? cite

        [Comparison of Resampling Schemes for Particle
        Filtering](https://arxiv.org/abs/cs/0507025).
    """
    size = len(weights)
    ends = jnp.cumsum(weights)
    ends = ends / ends[-1]
    places = (jnp.arange(size, dtype=jnp.float32) + offset) / size
    # What is rounded to 1 lies behind all of them.
    places = jnp.minimum(places, 1 - jnp.finfo(jnp.float32).epsneg)
    return jnp.searchsorted(ends, places, side="right")
