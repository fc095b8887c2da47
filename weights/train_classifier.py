"""Trains a small ResNet to name the animals of the embedded model.

python weights/train_classifier.py --sprites weights/cache/sprites.npz

Names and shapes of the arrays are torchvision's, so that `draftx.judges.ResNet` reads
them; `config.json` says how images are preprocessed and what the classes are.
"""

import argparse
import json
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _training import fit, save_arrays
from augmentations import augment
from composites import draw_scenes
from cutouts import Sprites
from jaxtyping import Array, Float
from scenes import ANIMALS, attributes, named_scenes, SIZE

from draftx.judges import ResNet
from draftx.judges.classifiers._layers import BatchNorm
from draftx.models import checkpoint_arrays
from draftx.rewards import ResizeAndCrop


PREPROCESS = ResizeAndCrop(resize=SIZE, crop=SIZE)
DEPTHS, WIDTH = (1, 1, 1, 1), 24
_EPSILON = 1e-5
_SMOOTHING = 0.05


class BatchStatistics(eqx.Module):
    """Batch normalization in training: by mean and variance of the batch.

    What it saw can be noted in `seen`, for the constants of [`BatchNorm`][].
    """

    weight: Float[Array, " channels"]
    bias: Float[Array, " channels"]
    seen: list | None = eqx.field(static=True, default=None)

    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        mean, variance = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
        if self.seen is not None:
            self.seen.append((mean, variance))
        scale = self.weight * jax.lax.rsqrt(variance + _EPSILON)
        return (x - mean) * scale + self.bias


def _map_norms(fn, kind, network):
    is_norm = lambda node: isinstance(node, kind)
    return jax.tree.map(
        lambda node: fn(node) if is_norm(node) else node, network, is_leaf=is_norm
    )


def with_statistics(network, images, key, batch_size=256):
    """The trained network with constants in place of the statistics of a batch.

    **Arguments:**

    - `network`: With [`BatchStatistics`][].
    - `images`: Whose mean and variance are kept, uint8.
    - `key`: Augments them.
    """

    @jax.jit
    def statistics(images, key):
        seen = []
        note = lambda norm: BatchStatistics(norm.weight, norm.bias, seen)
        noting = _map_norms(note, BatchStatistics, network)
        noting(PREPROCESS(augment(images.astype(jnp.float32) / 255, key)))
        return seen

    batches = np.split(images, len(images) // batch_size)
    keys = jr.split(key, len(batches))
    seen = [statistics(x, k) for x, k in zip(batches, keys, strict=True)]
    means = jax.tree.map(lambda *x: jnp.mean(jnp.stack(x), 0), *seen)
    # The network calls its layers in the order in which the tree has them.
    in_order = iter(means)

    def constant(norm):
        mean, variance = next(in_order)
        channels = BatchNorm(len(mean), epsilon=_EPSILON)
        fields = lambda n: (n.weight, n.bias, n.running_mean, n.running_var)
        return eqx.tree_at(fields, channels, (norm.weight, norm.bias, mean, variance))

    return _map_norms(constant, BatchStatistics, network)


def loss_fn(network, batch, key):
    """Cross entropy with a little label smoothing."""
    images, labels = batch
    images = augment(images.astype(jnp.float32) / 255, key)
    logits = network(PREPROCESS(images))
    log_probs = jax.nn.log_softmax(logits)
    right = jnp.take_along_axis(log_probs, labels[:, None], axis=-1)
    smooth = _SMOOTHING * jnp.mean(log_probs)
    loss = -(1 - _SMOOTHING) * jnp.mean(right) - smooth
    is_right = jnp.argmax(logits, -1) == labels
    return loss, {"loss": loss, "accuracy": jnp.mean(is_right.astype(jnp.float32))}


def draw_batch(rng, sprites, n, *, held_out=False):
    """Images (uint8) and the indices of their animals."""
    scenes = named_scenes(rng, sprites, n, held_out=held_out)
    labels = np.asarray([attributes(scene)[0] for scene in scenes], np.int32)
    return draw_scenes(sprites, scenes), labels


def save_classifier(network: ResNet, folder: pathlib.Path) -> None:
    """Writes `model.safetensors`, in half precision, and `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = checkpoint_arrays(jax.device_get(network))
    # Variances may be too small for half precision.
    narrow = lambda name: np.float32 if "running" in name else np.float16
    arrays = {name: array.astype(narrow(name)) for name, array in arrays.items()}
    save_arrays(folder / "model.safetensors", arrays, {"format": "pt"})
    config = dict(
        architecture="ResNet",
        depths=DEPTHS,
        width=WIDTH,
        image_size=PREPROCESS.crop,
        mean=PREPROCESS.mean,
        std=PREPROCESS.std,
        class_names=ANIMALS,
    )
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument(
        "--folder", type=pathlib.Path, default="weights/cache/classifier"
    )
    parser.add_argument("--out", type=pathlib.Path, default="weights/classifier")
    parser.add_argument("--num-steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    args = parser.parse_args()
    sprites = Sprites(args.sprites)

    network = ResNet(
        depths=DEPTHS,
        width=WIDTH,
        is_bottleneck=False,
        num_classes=len(ANIMALS),
        key=jr.key(0),
    )
    training = lambda norm: BatchStatistics(norm.weight, norm.bias)
    network = fit(
        _map_norms(training, BatchNorm, network),
        loss_fn,
        lambda rng, _: draw_batch(rng, sprites, args.batch_size),
        seed=5,
        num_steps=args.num_steps,
        learning_rate=args.learning_rate,
        ema_decay=0.99,
        folder=args.folder,
        convolutions="OIHW",
    )
    images, _ = draw_batch(np.random.default_rng([5, 10**6]), sprites, 4096)
    network = with_statistics(network, images, jr.key(2))
    save_classifier(network, args.out)
    images, labels = draw_batch(
        np.random.default_rng([5, 10**7]), sprites, 1024, held_out=True
    )
    logits = jax.jit(lambda x: network(PREPROCESS(x)))(jnp.float32(images) / 255)
    print(f"held-out accuracy: {np.mean(np.argmax(logits, -1) == labels):.2%}")


if __name__ == "__main__":
    main()
