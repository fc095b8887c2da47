"""A whole model in one file, in the layout of the code it was published with."""

import pathlib
import re
import warnings
from typing import Any

from ...pipeline import Pipeline
from ..formats import AbstractTensors, ModelFileError, PickledFile, TensorFile
from ..original import (
    check_is_whole,
    clip_tokenizer,
    kind_of_file,
    KINDS,
    PartOfFile,
    Place,
    places,
    TEXT_1,
    TEXT_2,
    UNET,
    VAE,
)
from ._components import fill, make_skeleton
from ._families import looks_like
from ._folder import assemble, describe_folder, Description, NETWORKS


_PREFIXES = {"unet": UNET, "vae": VAE, "text_encoder": (TEXT_1, TEXT_2)}
# What training left behind in the parts, and no picture depends on.
_PASSED_OVER = re.compile(
    r"first_stage_model\.(loss|model_ema)\..*"
    r"|cond_stage_model\.model\.(logit_scale|text_projection|attn_mask)"
    r"|cond_stage_model\.model\.transformer\.resblocks\.23\..*"
    r"|cond_stage_model\..*position_ids"
)
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")


def load_single_file(path: pathlib.Path, dtype: Any, config: str | None) -> Pipeline:
    """**Arguments:**

    - `path`: A `.safetensors` file, or one that PyTorch wrote.
    - `dtype`, `config`: As in [`draftx.load`][].
    """
    file = open_single_file(path)
    is_open_clip = any(key.startswith(TEXT_2) for key in file.shapes)
    description = _describe(file, config)

    def network(part: str) -> Any:
        inside = [key for key in file.shapes if key.startswith(_PREFIXES[part])]
        tensors = PartOfFile(file, {key: Place(key) for key in inside})
        config, name = description.configs[part], description.names[part]
        skeleton = make_skeleton(NETWORKS[part], config, name, tensors, dtype)
        found = places(skeleton, is_open_clip=is_open_clip)
        found = {ours: _older(place, file) for ours, place in found.items()}
        there = {ours: place for ours, place in found.items() if place.key in inside}
        taken = {place.key for place in there.values()}
        # What has no place is an error of `fill`, with the other ones.
        others = {
            key: Place(key)
            for key in inside
            if key not in taken and not _PASSED_OVER.fullmatch(key)
        }
        whole = PartOfFile(file, there | others)
        return fill(skeleton, whole, described=description.name)

    return assemble(description, network)


def open_single_file(path: pathlib.Path) -> AbstractTensors:
    """Opens a file that may hold a whole model.

    **Arguments:**

    - `path`: Of the file. Nothing that a pickle names is run.
    """
    if path.suffix == ".safetensors":
        return TensorFile(path)
    if path.suffix in _PICKLES:
        return PickledFile(path, is_checkpoint=True)
    raise ModelFileError(
        "`source` must be a folder, or a file that ends in .safetensors, "
        f"{', '.join(_PICKLES)}; got {str(path)!r}."
    )


def _describe(file: AbstractTensors, config: str | None) -> Description:
    _check_is_model(file)
    check_is_whole(file.shapes, file.name)
    if config is not None and config not in KINDS:
        folder = pathlib.Path(config)
        if not folder.is_dir():
            raise ValueError(
                f"`config` must be None, one of {list(KINDS)}, or a folder as "
                f"diffusers writes it; got {config!r}."
            )
        return describe_folder(folder)
    found = kind_of_file(file.shapes, file.name)
    if config is None and found == "v2":
        warnings.warn(
            f"{file.name!r} does not say what its network predicts; it is taken for a "
            "model of 768 pixels that predicts velocity, as diffusers takes it. Pass "
            '`config="v2-base"` for one of 512 pixels that predicts noise, '
            '`config="turbo"` for SD-Turbo, or `config="v2"` to say so.',
            stacklevel=4,
        )
    kind = KINDS[found if config is None else config]
    # What an inpainting model has more is in the file alone.
    first = file.shapes.get(f"{UNET}input_blocks.0.0.weight", ())
    unet = kind.unet | ({"in_channels": first[1]} if len(first) == 4 else {})
    name = f"the config {found if config is None else config!r}"
    parts = dict(unet=unet, vae=kind.vae, text_encoder=kind.text_encoder)
    return Description(
        file.name,
        parts,
        dict.fromkeys(parts, name),
        kind.sampler,
        clip_tokenizer(kind.pad_token),
    )


def _check_is_model(file: AbstractTensors) -> None:
    if any(key.startswith((UNET, VAE, TEXT_1, TEXT_2)) for key in file.shapes):
        return
    rule = "`source` must hold a whole model"
    if any("lora" in key for key in file.shapes):
        raise ModelFileError(
            f"{rule}; {file.name!r} is a LoRA. Load the model that it was trained on, "
            "then the LoRA with `draftx.load_lora`."
        )
    kind = looks_like(file.shapes)
    if not kind and len(file.shapes) == 1:
        raise ModelFileError(
            f"{rule}; {file.name!r} is a learned word. Load the model that it was "
            "learned with, then the word with `draftx.load_embedding`."
        )
    raise ModelFileError(
        f"{rule}, its names beginning with {UNET!r} and so on; {file.name!r} has none."
        f"{kind}"
    )


def _older(place: Place, file: AbstractTensors) -> Place:
    """The place under the name that some files have for it, if this one does."""
    older = place.key.replace(".text_model.", ".", 1)
    return place._replace(key=older) if older in file.shapes else place
