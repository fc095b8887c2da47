"""Figures of images that nothing was trained on."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..._checks import check_is, check_whole, finite
from ..._compilation import compiled
from ..._custom_types import Images, Latents, RealLike, WholeLike
from ..._keys import check_key
from ..._mesh import data_mesh, mesh_of
from ..._table import Rows, Table
from ...episodes import image_spec
from ...pipeline import (
    Batch,
    check_channels,
    condition,
    Conditioning,
    draw,
    encode_texts,
    latent_shape,
    make_plan,
    Pipeline,
    Plan,
    Sampling,
    starting_noise,
    take_rows,
)
from ...rewards import (
    AbstractReward,
    as_reward,
    check_scores,
    probe_host_rewards,
    Reward,
)
from ._diversity import coarse_pixels, diversity, Features


_OWN_NAMES = ("score", "diversity", "diversity_across")


class Evaluation(eqx.Module):
    """Measures a pipeline on held-out prompts, fixed noise and held-out rewards.

    Called with a pipeline it draws `num_samples` images for every prompt, always from
    the same noise, and gives plain figures by name:

    - the mean of each reward;
    - `diversity` and `diversity_across`, as in [`draftx.finetuning.diversity`][];
    - `score`, the weighted sum of these that stands for all of them. Give `weights`
        where there are several rewards: their scales differ.

    Nothing is differentiated, so a reward need not be differentiable. The sampler is
    that of `draftx.sample`, compiled once for all pipelines of one kind, and divided
    over all devices.
    """

    rewards: dict[str, AbstractReward]
    features: Features
    key: PRNGKeyArray
    sampling: Sampling
    table: Table = eqx.field(static=True)
    weights: dict[str, float] = eqx.field(static=True)
    every: int = eqx.field(static=True)
    num_samples: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)

    def __init__(
        self,
        prompts: Rows,
        rewards: Mapping[str, Reward],
        sampling: Sampling = Sampling(),
        *,
        every: WholeLike = 50,
        num_samples: WholeLike = 2,
        weights: Mapping[str, RealLike] | None = None,
        features: Features = coarse_pixels,
        key: PRNGKeyArray | None = None,
        batch_size: WholeLike = 8,
    ):
        """**Arguments:**

        - `prompts`: None of those trained on, if generalization is the question: a list
            of strings, or a mapping of columns.
        - `rewards`: By name, each as `draftx.finetune` takes one. One that was not
            trained on tells better than the one that was.
        - `sampling`: How images are sampled.
        - `every`: `draftx.finetune` evaluates before it begins, after every so many
            steps, and at the end.
        - `num_samples`: Images of each prompt; with 1 there is no `diversity`.
        - `weights`: Of `score`: names of rewards or of diversities to numbers. `None`
            is the mean of the rewards.
        - `features`: Images to anything; it is flattened. For example the features of
            the reward's own network.
        - `key`: Draws the noise. `None` is `jax.random.key(0)`.
        - `batch_size`: How many images are drawn and scored at a time, rounded up to
            a multiple of the number of devices.
        """
        check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
        table = Table.of(prompts)
        if not rewards:
            raise ValueError("`rewards` must name at least one reward; got none.")
        for name in rewards:
            if name in _OWN_NAMES or not name:
                raise ValueError(
                    f"`rewards` must not be named {name!r}; that is another figure."
                )
        every = check_whole("every", every)
        num_samples = check_whole("num_samples", num_samples)
        batch_size = check_whole("batch_size", batch_size)
        if weights is None:
            weights = dict.fromkeys(rewards, 1 / len(rewards))
        known = list(rewards)
        known += ["diversity"] if num_samples > 1 else []
        known += ["diversity_across"] if len(table) > 1 else []
        if not weights or not set(weights) <= set(known):
            raise ValueError(
                f"`weights` must be of figures among {known}; got {list(weights)}."
            )
        self.rewards = {name: as_reward(reward) for name, reward in rewards.items()}
        self.features = features
        self.key = jr.key(0) if key is None else check_key(key)
        self.sampling = sampling
        self.table = table
        self.weights = {
            name: finite(f"weights[{name!r}]", weight)
            for name, weight in weights.items()
        }
        self.every = every
        self.num_samples = num_samples
        self.batch_size = batch_size

    def measures_diversity(self) -> bool:
        """Says whether there are two images whose distance could be measured."""
        return self.num_samples > 1 or len(self.table) > 1

    def check(self, pipeline: Pipeline) -> None:
        """Raises unless the images of this pipeline can be drawn and scored."""
        make_plan(pipeline, self.sampling)
        shape = (self._chunk(pipeline), *latent_shape(pipeline, self.sampling))
        try:
            check_channels(pipeline, self.table, shape)
        except ValueError as e:
            raise ValueError(
                f"`evaluation` must have rows that this model can draw: {e}"
            ) from e
        images = image_spec(pipeline, shape)
        for reward in self.rewards.values():
            check_scores(reward, images, reward.prepare(self.table))
            probe_host_rewards(reward, images.shape, self.table)

    def latents(self, pipeline: Pipeline, indices: np.ndarray) -> Latents:
        """Draws the noise that the images of these `indices` begin from.

        Each number has its own.

        **Arguments:**

        - `pipeline`: Whose latents they are.
        - `indices`: Of images: a row times the draws of each, plus a draw.
        """
        shape = latent_shape(pipeline, self.sampling)
        draw = lambda i: jr.normal(jr.fold_in(self.key, i), shape, jnp.float32)
        return jax.vmap(draw)(jnp.asarray(indices))

    def __call__(
        self, pipeline: Pipeline, tell: Callable[[int, int], None] | None = None
    ) -> dict[str, float]:
        """Computes the figures of a pipeline, numbers by name.

        **Arguments:**

        - `pipeline`: That draws.
        - `tell`: Called before every batch and at the end, with how many batches are
            done and how many there are.
        """
        tell = tell or _ignore
        prepared = {
            name: reward.prepare(self.table) for name, reward in self.rewards.items()
        }
        plan = make_plan(pipeline, self.sampling)
        shape = (len(self.table), *latent_shape(pipeline, self.sampling))
        conditioning = condition(pipeline, self.table, self.sampling, shape)
        pipeline, conditioning = encode_texts(pipeline, conditioning)
        total, chunk = len(self.table) * self.num_samples, self._chunk(pipeline)
        count, scored = -(-total // chunk), []
        for start in range(0, total, chunk):
            tell(start // chunk, count)
            # The last batch is filled up: one program for all.
            indices = np.arange(start, start + chunk) % total
            rows = indices // self.num_samples
            images = self._draw(pipeline, plan, conditioning, indices)
            of_rows = take_rows(prepared, jnp.asarray(rows))
            scored.append(_score(self.rewards, self.features, images, of_rows))
        tell(count, count)
        scores, features = jax.tree.map(
            lambda *parts: np.concatenate([np.asarray(x) for x in parts])[:total],
            *scored,
        )
        figures = {name: float(np.mean(x)) for name, x in scores.items()}
        shape = (len(self.table), self.num_samples, -1)
        figures |= diversity(features.reshape(shape))
        score = sum(weight * figures[name] for name, weight in self.weights.items())
        return {"score": float(score)} | figures

    def _draw(
        self,
        pipeline: Pipeline,
        plan: Plan,
        conditioning: Conditioning,
        indices: np.ndarray,
    ) -> Images:
        latents = self.latents(pipeline, indices)
        # Of what the steps add.
        key = jr.fold_in(self.key, int(indices[0]))
        latents, key = starting_noise(
            pipeline, len(indices), self.sampling, key=key, latents=latents
        )
        conditioning = conditioning.take(jnp.asarray(indices // self.num_samples))
        batch = Batch(conditioning, latents, key, plan)
        images, wrong = draw(pipeline, batch, on_all=True)
        if wrong is not None:
            # Not an error, which would end a training and lose what it has learned.
            warnings.warn(f"{wrong} Its figures are not numbers.", stacklevel=3)
        # Rewards may call the host, which is better done from one device.
        return jnp.asarray(np.asarray(images))

    def _chunk(self, pipeline: Pipeline) -> int:
        # The devices that draw: those of the pipeline, or all of this host.
        devices = (mesh_of(pipeline) or data_mesh(local=True)).size
        size = min(self.batch_size, len(self.table) * self.num_samples)
        return -(-size // devices) * devices


def _ignore(done: int, total: int) -> None:
    del done, total


@compiled()
def _score(
    rewards: dict[str, AbstractReward],
    features: Features,
    images: Images,
    prepared: Any,
) -> tuple[dict[str, Float[Array, " batch"]], Array]:
    """Every reward of every image, and what its diversity is measured by."""
    scores = {
        name: reward(images, prepared[name]).astype(jnp.float32)
        for name, reward in rewards.items()
    }
    flat = features(images).reshape(images.shape[0], -1)
    return scores, flat.astype(jnp.float32)
