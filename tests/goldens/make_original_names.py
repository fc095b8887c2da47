"""Writes `manifests/original_names.json.gz`: the names of single files, by diffusers.

    python tests/goldens/make_original_names.py

Diffusers' converters of single files are given tensors under the names that draftx has
for them, each with a number of its own in it; where the numbers come out is what is
written: for each name of diffusers that of the file, and for the text encoder of
Stable Diffusion 2.x the third of the matrix, too. A name that diffusers does not know
is not there. Made with diffusers 0.42.1.
"""

import gzip
import json
import pathlib
import types

import equinox as eqx
import jax.random as jr
import torch
from diffusers.loaders import single_file_utils as theirs

from draftx.io.original import KINDS, OriginalTensors
from draftx.models import (
    AutoencoderConfig,
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    UNet2DConditionModel,
    UNetConfig,
)


PATH = pathlib.Path(__file__).parent / "manifests" / "original_names.json.gz"


def names_in_file(cls, config, **options):
    model = eqx.filter_eval_shape(cls, config, key=jr.key(0))
    return list(OriginalTensors(model, **options))


def numbered(names):
    """Tensors of three rows, which split into thirds."""
    return {
        name: torch.arange(3 * i, 3 * i + 3)[:, None] for i, name in enumerate(names)
    }


def found(names, converted):
    return {
        key: names[int(tensor.flatten()[0]) // 3] for key, tensor in converted.items()
    }


def main():
    kind = KINDS["v1"]
    names = names_in_file(UNet2DConditionModel, UNetConfig.from_dict(kind.unet))
    config = dict(kind.unet, layers_per_block=2)
    unet = found(names, theirs.convert_ldm_unet_checkpoint(numbered(names), config))
    names = names_in_file(AutoencoderKL, AutoencoderConfig.from_dict(kind.vae))
    vae = found(names, theirs.convert_ldm_vae_checkpoint(numbered(names), kind.vae))
    text = CLIPTextConfig.from_dict(kind.text_encoder)
    names = names_in_file(CLIPTextModel, text)
    clip = found(names, theirs.convert_ldm_clip_checkpoint(numbered(names)))
    text = CLIPTextConfig.from_dict(KINDS["v2"].text_encoder)
    names = names_in_file(CLIPTextModel, text, is_open_clip=True)
    # One feature: a matrix of three rows is cut into rows.
    model = types.SimpleNamespace(config=types.SimpleNamespace(hidden_size=1))
    converted = theirs.convert_open_clip_checkpoint(model, numbered(names))
    open_clip = {}
    for key, tensor in converted.items():
        number = int(tensor.flatten()[0])
        third = number % 3 if len(tensor) == 1 else None
        open_clip[key] = [names[number // 3], third]
    golden = dict(unet=unet, vae=vae, text_encoder=clip, open_clip=open_clip)
    for part, content in golden.items():
        print(part, len(content))
    text = json.dumps(golden, separators=(",", ":"))
    PATH.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
