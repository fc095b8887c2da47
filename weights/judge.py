"""A small network that names what an image of the embedded model shows.

It has one head for each word of a caption that [`scenes`][] chooses, and has seen
its training images blurred, compressed and noisy, so that it can judge images that
a diffusion model drew. It is no reward, and nothing is trained against it: what it says
of a fine-tuned model is what a second, independent network sees.

    python weights/judge.py --sprites weights/cache/sprites.npz
    python weights/judge.py --sprites weights/cache/sprites.npz --counting

The second trains the first on, to another, which has seen scenes with none to six
animals and has a head for how many there are.
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _training import fit, load_tree, save_tree, use_cpu_cores
from augmentations import augment
from composites import batch, draw_scenes
from counted import densities, density_loss, MOST, scenes_to_count
from cutouts import Sprites
from jaxtyping import Array, Float, PRNGKeyArray
from scenes import ANIMALS, attributes, COLORS, NUMBERS, PATTERNS, STYLES

from draftx.layers import Conv2d, GroupNorm, Linear, ResnetBlock


HEADS = {
    "animal": ANIMALS,
    "style": STYLES,
    "color": tuple(COLORS),
    "pattern": PATTERNS,
}
COUNTING_HEADS = HEADS | {"count": NUMBERS[: MOST + 1]}
PATH = pathlib.Path(__file__).parent / "judge" / "model.safetensors"
COUNTING_PATH = PATH.with_name("counting.safetensors")

# Cross entropies are large, and would be all that the trunk learns for.
_COUNT_WEIGHT = 10.0
_NORM: dict[str, Any] = dict(num_groups=8, epsilon=1e-5)


class Judge(eqx.Module):
    """Convolutions down to an eighth, residual blocks, the mean and the maximum."""

    downs: tuple[Conv2d, ...]
    blocks: tuple[ResnetBlock, ...]
    norm: GroupNorm
    heads: Linear
    density: Linear | None
    # The name of each head, and how many logits it has.
    names: tuple[tuple[str, int], ...] = eqx.field(static=True)

    def __init__(
        self,
        words: Mapping[str, Sequence[str]] = HEADS,
        *,
        channels: tuple[int, ...] = (24, 48, 80),
        key: PRNGKeyArray,
    ):
        self.names = tuple(
            (head, len(values)) for head, values in words.items() if head != "count"
        )
        self.density = None
        if "count" in words:
            self.density = Linear(channels[-1], 1, key=jr.fold_in(key, 1))
        keys = jr.split(key, 2 * len(channels) + 1)
        pairs = zip((3, *channels), channels, keys[1::2], strict=False)
        self.downs = tuple(Conv2d(i, o, stride=2, key=k) for i, o, k in pairs)
        # None at the first scale, where pixels are many and say little.
        self.blocks = tuple(
            ResnetBlock(c, c, time_features=None, key=k, **_NORM)
            for c, k in zip(channels[1:], keys[2::2], strict=False)
        )
        self.norm = GroupNorm(channels[-1], **_NORM)
        self.heads = Linear(
            2 * channels[-1], sum(size for _, size in self.names), key=keys[0]
        )

    def __call__(
        self, images: Float[Array, "batch height width 3"]
    ) -> dict[str, Float[Array, "batch _"]]:
        """**Arguments:**

        - `images`: In $[0, 1]$, channels last, 64 × 64.

        **Returns:**

        The logits of each head, in the order of the words that it chooses from.
        """
        return self.see(images)[0]

    def see(self, images: Float[Array, "batch height width 3"]):
        """The logits, and how many animals are in each cell, or `None`."""
        x = jax.nn.silu(self.downs[0](2 * images - 1))
        for down, block in zip(self.downs[1:], self.blocks, strict=True):
            x = block(down(x))
        x = self.norm(x, silu=True)
        pooled = jnp.concatenate([jnp.mean(x, (1, 2)), jnp.max(x, (1, 2))], axis=-1)
        heads, sizes = zip(*self.names, strict=True)
        # Where the logits of one head end and those of the next begin.
        boundaries = np.cumsum(sizes)[:-1]
        logits = jnp.split(self.heads(pooled), boundaries, axis=-1)
        logits = dict(zip(heads, logits, strict=True))
        if self.density is None:
            return logits, None
        # A whole number is the more likely the nearer it is to the sum.
        density = jax.nn.softplus(self.density(x)[..., 0])
        number = jnp.sum(density, axis=(1, 2))[:, None]
        numbers = jnp.arange(len(COUNTING_HEADS["count"]), dtype=number.dtype)
        return logits | {"count": -((number - numbers[None]) ** 2)}, density


def with_counts(judge: Judge, *, key: PRNGKeyArray) -> Judge:
    """The same judge, which also counts, and sees nearly nothing to begin with."""
    counting = Judge(COUNTING_HEADS, key=key)
    fields = lambda j: (j.downs, j.blocks, j.norm, j.heads)
    counting = eqx.tree_at(fields, counting, fields(judge))
    return eqx.tree_at(
        lambda j: j.density.bias, counting, replace_fn=lambda x: jnp.full_like(x, -3.0)
    )


def save_judge(judge: Judge, path: str | pathlib.Path = PATH) -> None:
    """Writes the weights in float16."""
    half = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), judge)
    save_tree(pathlib.Path(path), half)


def load_judge(
    path: str | pathlib.Path = PATH, words: Mapping[str, Sequence[str]] = HEADS
) -> Judge:
    """Reads what `save_judge` wrote. The arithmetic is in float32."""
    like = eqx.filter_eval_shape(lambda: Judge(words, key=jr.key(0)))
    return load_tree(pathlib.Path(path), like)


def load_counting_judge() -> Judge:
    """Reads the one that also counts."""
    return load_judge(COUNTING_PATH, COUNTING_HEADS)


def scene_labels(scenes, words: Mapping[str, Sequence[str]] = HEADS) -> np.ndarray:
    """What each head should say of each scene: integers, `scenes` × heads."""
    columns = ("animal", "style", "pattern", "color", "count")
    rows = [(*attributes(scene), len(scene.centers)) for scene in scenes]
    return np.asarray(rows, np.int32)[:, [columns.index(head) for head in words]]


def predict(judge: Judge, images, batch_size: int = 64) -> np.ndarray:
    """What each head says of each image: integers, `images` × heads."""
    best = lambda x: jnp.stack([jnp.argmax(y, -1) for y in judge(x).values()], -1)
    best = jax.jit(best)
    starts = range(0, len(images), batch_size)
    return np.concatenate([best(images[i : i + batch_size]) for i in starts])


def loss_fn(judge, batch, key):
    """The sum of the heads' cross entropies, with a little label smoothing.

    Of one that counts, also the squared errors of the density.
    """
    images, labels, *wanted = batch
    logits, density = judge.see(augment(images.astype(jnp.float32) / 255, key))
    metrics = {}
    # Where nothing is there is nothing to name.
    is_there = labels[:, -1] > 0 if wanted else jnp.ones(len(labels), bool)
    for i, (head, _) in enumerate(judge.names):
        log_probs = jax.nn.log_softmax(logits[head])
        right = jnp.take_along_axis(log_probs, labels[:, i, None], axis=-1)[:, 0]
        likely = 0.95 * right + 0.05 * jnp.mean(log_probs, axis=-1)
        named = is_there if head in ("animal", "style") else jnp.ones_like(is_there)
        metrics[head] = -jnp.mean(likely * named)
    loss = sum(metrics.values())
    if wanted:
        metrics["count"], _ = density_loss(density, wanted[0])
        loss = loss + _COUNT_WEIGHT * metrics["count"]
    return loss, metrics | {"loss": loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--counting", action="store_true", help="the one that counts")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--num-steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    args = parser.parse_args()
    use_cpu_cores(1)
    sprites = Sprites(args.sprites)
    words = COUNTING_HEADS if args.counting else HEADS
    out = args.out or (COUNTING_PATH if args.counting else PATH)
    folder = "counting_judge" if args.counting else "judge"

    judge = Judge(key=jr.key(0))
    if args.counting:
        judge = with_counts(load_judge(), key=jr.key(0))

    def draw_batch(rng, n):
        if args.counting:
            scenes = scenes_to_count(rng, sprites, n)
            labels = scene_labels(scenes, words)
            return draw_scenes(sprites, scenes), labels, densities(scenes)
        images, _, scenes = batch(rng, sprites, n)
        return images, scene_labels(scenes)

    judge = fit(
        judge,
        loss_fn,
        lambda rng, _: draw_batch(rng, args.batch_size),
        seed=2,
        num_steps=args.num_steps,
        learning_rate=args.learning_rate,
        ema_decay=0.99,
        folder=args.folder or pathlib.Path("weights/cache") / folder,
    )
    save_judge(judge, out)

    judge = load_judge(out, words)
    images, labels, *_ = draw_batch(np.random.default_rng([3, 0]), 2048)
    images = jnp.asarray(images, jnp.float32) / 255
    for kind, seen in (("clean", images), ("augmented", augment(images, jr.key(9)))):
        is_right = predict(judge, seen) == labels
        if args.counting:
            is_right = is_right[labels[:, -1] > 0]
        right = is_right.mean(axis=0)
        print(kind, {head: f"{r:.2%}" for head, r in zip(words, right, strict=True)})


if __name__ == "__main__":
    main()
