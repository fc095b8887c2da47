"""Which tier of rematerialisation is the fastest that fits: `Memory(remat="auto")`.

Estimated from shapes alone, so that nothing is compiled twice. The numbers are those of
this package's networks, read off plans of compiled programs; a test holds the estimate
to within `MARGIN` of such plans.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp

from ..._fingerprint import fingerprint
from ..._hosts import heard_of_all
from ..._mesh import data_mesh, mesh_of
from ..._planned_memory import free_memory
from ...episodes import Memory
from ...io.checkpoints import Checkpoints
from ...layers import Remat
from ...models import AutoencoderConfig, UNetConfig
from ...pipeline import latent_shape, Pipeline, Sampling


_LOG: Final = logging.getLogger("draftx")
# An estimate may be wrong by so much: a tier is taken if it fits all the same.
MARGIN: Final = 1.5
# Fastest first. On a CPU what is kept is new memory in every step, which takes longer
# than computing transformers again.
_ORDER: Final = {"cpu": (Remat.BLOCK, Remat.STEP, Remat.NESTED)}
_OTHERS: Final = (Remat.NONE, Remat.FF, Remat.BLOCK, Remat.STEP, Remat.NESTED)
# What a transformer keeps beside its input, in sizes of that; of it the feed-forward
# layer; what a step's backward pass has in hand, in sizes of the UNet's largest map;
# what the decoder has, in sizes of its own, with its blocks computed again and without.
_INSIDE: Final = 25
_FEED_FORWARD: Final = 10
_IN_HAND: Final = 10
_DECODER: Final = 9
_DECODER_WHOLE: Final = 13


class Maps(NamedTuple):
    """Holds sizes of what one step of a UNet keeps, in numbers.

    - `residual`: Inputs of the norms of all residual blocks.
    - `transformers`: Inputs of each of the transformers.
    - `largest`: Of all these maps.
    """

    residual: int
    transformers: tuple[int, ...]
    largest: int


def settle(
    memory: Memory,
    pipeline: Pipeline,
    sampling: Sampling,
    batch_size: int,
    *,
    steps: int,
    checkpoints: Checkpoints | None = None,
    tell: Callable[[str], None] = _LOG.info,
) -> Memory:
    """Chooses the tier where `memory` leaves that open, and says so.

    **Arguments:**

    - `memory`: As its user gave it; another tier than `"auto"` stays.
    - `pipeline`, `sampling`, `batch_size`: What is drawn.
    - `steps`: The insides of so many are kept at once (`steps_at_once`).
    - `checkpoints`: A training that goes on keeps the tier that it has.
    - `tell`: Is told which was chosen, and why; the log, unless said otherwise.
    """
    if memory.remat is not Remat.AUTO:
        return memory
    kept = None if checkpoints is None else _begun_with(checkpoints, memory)
    if kept is not None:
        return kept
    mesh = mesh_of(pipeline) or data_mesh(local=True)
    here = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    platform = here[0].platform
    parts = math.gcd(batch_size, mesh.size)
    images = batch_size // parts
    at_once = memory.images_at_once or batch_size
    # A CPU computes in float32, and its devices have one memory.
    dtype = jnp.float32 if platform == "cpu" else pipeline.unet.dtype
    shape = (images, *latent_shape(pipeline, sampling))
    times = min(len(here), parts) if platform == "cpu" else 1

    def needed(tier: Remat) -> int:
        size = estimate(
            pipeline.unet.config,
            pipeline.vae.config,
            shape,
            tier,
            steps=steps,
            guided=sampling.is_guided,
            images_at_once=math.ceil(at_once / parts),
        )
        return times * size * jnp.dtype(dtype).itemsize

    free = _free_everywhere(here)
    # Where no step is kept there is nothing to choose.
    chosen = fastest(platform, needed, free) if steps else Remat.STEP
    of_free = "" if free is None else f", of {free >> 20:,} that are free"
    tell(
        f"remat {chosen.value!r}: a gradient takes about {needed(chosen) >> 20:,} MiB "
        f"beside weights and reward{of_free}"
    )
    return dataclasses.replace(memory, remat=chosen)


def fastest(platform: str, needed: Callable[[Remat], int], free: int | None) -> Remat:
    """Finds the fastest tier that fits; the least memory if none does.

    **Arguments:**

    - `platform`: Of a device: `"cpu"`, `"gpu"` or `"tpu"`.
    - `needed`: Says what a tier needs, in bytes.
    - `free`: What there is; `None` is not known.
    """
    tiers = _ORDER.get(platform, _OTHERS)
    if free is None:
        return Remat.BLOCK if platform == "cpu" else Remat.STEP
    return next((t for t in tiers if MARGIN * needed(t) <= free), tiers[-1])


def estimate(
    unet: UNetConfig,
    vae: AutoencoderConfig,
    shape: Sequence[int],
    tier: Remat,
    *,
    steps: int,
    guided: bool,
    images_at_once: int,
) -> int:
    """Estimates how many numbers a gradient keeps at its peak, beside the weights.

    The reward's are not counted.

    **Arguments:**

    - `unet`, `vae`: Configurations of the networks.
    - `shape`: Of the latents, `[batch, height, width, channels]`.
    - `tier`: What is computed again.
    - `steps`: So many are kept at once.
    - `guided`: Whether the UNet is asked twice for each image.
    - `images_at_once`: That are decoded.
    """
    batch, height, width, _ = shape
    maps = _maps(unet, batch, height, width, rows=batch * (1 + guided))
    inputs = maps.residual + sum(maps.transformers)
    inside = _INSIDE * sum(maps.transformers)
    one = _INSIDE * max(maps.transformers, default=0)
    kept, again = {
        Remat.NONE: (inputs + inside, 0),
        Remat.FF: (inputs + inside - _FEED_FORWARD * sum(maps.transformers), one),
        Remat.BLOCK: (inputs, one),
        Remat.STEP: (0, inputs + inside),
        Remat.NESTED: (0, inputs // 2 + one),
    }[tier]
    kept = steps * (kept + math.prod(shape))
    in_hand = again + _IN_HAND * maps.largest
    channels, scale = vae.block_out_channels, vae.downsampling_factor
    # The last block is given its map with the channels of the one before.
    decoded = images_at_once * height * width * scale**2 * max(channels[:2])
    decoding = (_DECODER if tier.scoring else _DECODER_WHOLE) * decoded
    return kept + max(in_hand, decoding)


def _maps(unet: UNetConfig, batch: int, height: int, width: int, rows: int) -> Maps:
    """What a step keeps; the rows of an image are one until the text comes in."""
    residual, transformers, largest, current = 0, [], 0, batch
    for block in _blocks(unet):
        pixels = (height >> block.level) * (width >> block.level)
        residual += (block.inputs + block.out) * pixels * current
        largest = max(largest, block.inputs * pixels * current)
        if block.attends:
            current = rows
            layers = unet.per_level(unet.transformer_layers_per_block)[block.level]
            transformers += [block.out * pixels * rows] * layers
    residual += unet.block_out_channels[0] * height * width * rows
    return Maps(residual, tuple(transformers), largest)


class _Block(NamedTuple):
    """A residual block: its channels, its level, whether a transformer follows."""

    inputs: int
    out: int
    level: int
    attends: bool


def _blocks(unet: UNetConfig) -> Iterator[_Block]:
    channels, layers = unet.block_out_channels, unet.per_level(unet.layers_per_block)
    last = len(channels) - 1
    inputs, skips = channels[0], [channels[0]]
    for level, out in enumerate(channels):
        for _ in range(layers[level]):
            yield _Block(inputs, out, level, unet.down_has_attention[level])
            inputs = out
            skips.append(out)
        if level < last:
            skips.append(out)
    yield _Block(inputs, inputs, last, True)
    yield _Block(inputs, inputs, last, False)
    for i, level in enumerate(range(last, -1, -1)):
        for _ in range(layers[level] + 1):
            out = channels[level]
            joined = inputs + skips.pop()
            yield _Block(joined, out, level, unet.up_has_attention[i])
            inputs = out


def _free_everywhere(devices: Sequence[Any]) -> int | None:
    """What is free on the host with the least, in bytes; all hosts choose alike."""
    free = free_memory(devices)
    least = min(heard_of_all(0 if free is None else (free >> 20) + 1))
    return (least - 1) << 20 if least else None


def _begun_with(checkpoints: Checkpoints, memory: Memory) -> Memory | None:
    """The options of memory that a saved training was begun with."""
    facts = checkpoints.begun_with()
    for tier in Remat:
        known = dataclasses.replace(memory, remat=tier)
        if facts.get("memory") == fingerprint(known):
            return known
    return None
