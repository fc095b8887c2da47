"""What the test of real sizes runs in processes of its own."""

import pathlib
import sys
from collections.abc import Mapping

import numpy as np


class Random(Mapping):
    """The tensors of a single file of Stable Diffusion 1.4, in float16, without the
    memory for them: the same bits over and over, each time they are asked for."""

    def __init__(self):
        import equinox as eqx
        import jax.random as jr

        from draftx.io.original import places
        from draftx.models import (
            AutoencoderConfig,
            AutoencoderKL,
            CLIPTextConfig,
            CLIPTextModel,
            named_parameters,
            UNet2DConditionModel,
            UNetConfig,
        )

        self.shapes = {}
        for cls, config in (
            (UNet2DConditionModel, UNetConfig()),
            (AutoencoderKL, AutoencoderConfig()),
            (CLIPTextModel, CLIPTextConfig()),
        ):
            model = eqx.filter_eval_shape(cls, config, key=jr.key(0))
            found = places(model, is_open_clip=False)
            for p in named_parameters(model):
                key, shape = found[p.key].key, p.file_shape
                is_attention = ".attn_1." in key and len(shape) == 2
                self.shapes[key] = (*shape, 1, 1) if is_attention else shape
        bits = np.random.default_rng(0).integers(0, 2**16, 2**18 + 1, np.uint16)
        # Below 2: no infinity, no NaN.
        self.tile = (bits & 0xBFFF).view(np.float16)

    def __getitem__(self, key):
        shape = self.shapes[key]
        size = int(np.prod(shape))
        start = hash(shape) % 1000
        return np.resize(self.tile[start:], size).reshape(shape)

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self):
        return len(self.shapes)


def peak():
    """The most memory this process has had, in bytes."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main(action, *paths):
    import draftx
    from draftx.runs import main as command

    if action == "load":
        pipeline = draftx.load(paths[0], dtype="stored")
        assert pipeline.unet.conv_in.weight.dtype == np.float16
    elif action == "convert":
        assert command(["convert", *paths]) == 0
    print(peak())


if __name__ == "__main__":
    main(*sys.argv[1:])
