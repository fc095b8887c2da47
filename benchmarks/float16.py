"""What float16 makes of gradients: how much is rounded to zero, and how wrong the rest.

python benchmarks/float16.py                                 # embedded model, DRaFT-1
python benchmarks/float16.py --methods draft draft-lv score --batch 4

The embedded model in float16 with a float32 adapter, against the same numbers in
float32. "plain" is what float16 gives where cotangents are left as they are, "scaled"
is what draftx computes. The reward is a mean over pixels times `--scales`: 1e-3 at 64
pixels a side is what 1 is at 2048, or 0.016 at 512.
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _models import gradient_program, make_inputs

import draftx
from draftx import _scaled_gradient
from draftx.lora import lora_filter
from draftx.rewards import AbstractReward


_METHODS = {
    "draft-1": draftx.DRaFT(1),
    "draft": draftx.DRaFT(),
    "draft-lv": draftx.DRaFTLV(),
    "score": draftx.ScoreFunction(),
}


class Contrast(AbstractReward):
    """Red against green, times a scale that needs no other program."""

    scale: jax.Array

    def __call__(self, images, features=None):
        del features
        contrast = images[..., 0] - images[..., 1] + 0.5 * images[..., 2] ** 2
        return self.scale * jnp.mean(contrast, axis=(1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["draft-1"], choices=_METHODS)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1e-2, 1e-3])
    parser.add_argument("--num-inference-steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2)
    args = parser.parse_args()
    half = make_inputs("tiny", dtype="float16", batch=args.batch, rank=4)
    trained, frozen = eqx.partition(half.pipeline, lora_filter(half.pipeline))
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (trained, frozen))
    half = half._replace(pipeline=eqx.combine(wide[0], frozen))
    wide = half._replace(pipeline=eqx.combine(*wide))
    print(f"{jax.devices()[0].device_kind}, {args.num_inference_steps} steps")
    print("method    reward    zeros: plain  scaled    error: plain   scaled")
    for name in args.methods:
        expected = _gradients(wide, name, args)
        scaled = _gradients(half, name, args)
        plain = _gradients(half, name, args, is_scaled=False)
        for scale, e, s, p in zip(args.scales, expected, scaled, plain, strict=True):
            zeros = [np.mean(x == 0) for x in (p, s)]
            errors = [np.linalg.norm(x - e) / np.linalg.norm(e) for x in (p, s)]
            print(
                f"{name:9} {scale:6.0e} {zeros[0]:16.1%} {zeros[1]:7.1%} "
                f"{errors[0]:16.4f} {errors[1]:8.4f}",
                flush=True,
            )


def _gradients(inputs, name, args, *, is_scaled=True):
    """Those of all scales, by one program."""
    has_float16 = _scaled_gradient._has_float16
    if not is_scaled:
        _scaled_gradient._has_float16 = lambda tree: False
    gradients = []
    try:
        compiled = None
        for scale in args.scales:
            program = gradient_program(
                inputs,
                _METHODS[name],
                draftx.Sampling(args.num_inference_steps, 3.0),
                draftx.Memory(),
                reward=Contrast(jnp.asarray(scale, jnp.float32)),
            )
            if compiled is None:
                compiled = jax.jit(program.fn).lower(program.arrays).compile()
            _, gradient = compiled(program.arrays)
            flat = [np.ravel(x) for x in jax.tree.leaves(gradient)]
            gradients.append(np.concatenate(flat).astype(np.float64))
    finally:
        _scaled_gradient._has_float16 = has_float16
    return gradients


if __name__ == "__main__":
    main()
