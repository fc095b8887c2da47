import pathlib
from collections import ChainMap
from collections.abc import Mapping

import numpy as np

from ...pipeline import Pipeline
from ..formats import check_replaceable, new_folder, write_json, write_tensors
from ..original import OriginalTensors
from ._components import check_no_lora, save_component
from ._configs import DIFFUSERS_VERSION
from ._tokenizer import save_tokenizer


def save(pipeline: Pipeline, folder: str | pathlib.Path) -> None:
    """Writes a pipeline as a folder that diffusers and [`draftx.load`][] open.

    With a name that ends in `.safetensors` it is a single file instead, in the layout
    that Stable Diffusion was published in. Such a file has no configs and no tokenizer:
    of a model with others than the published ones, `draftx.load` needs `config=`.

    The scheduler is diffusers' `DDIMScheduler`, as draftx samples, also of a model that
    was loaded with another: it keeps all that the noise is made of. In diffusers,
    another class is made of it by `from_config(pipe.scheduler.config)`.

    Of a model that sees an image (`draftx.add_conditioning_image`) the folder is one of
    diffusers' `StableDiffusionInstructPix2PixPipeline`, which draws the same images
    with `image_guidance_scale=1`.

    **Arguments:**

    - `pipeline`: Without LoRA, and without learned inputs of the sampler.
    - `folder`: Written whole or not at all. A folder there already is replaced if it is
        empty or a saved pipeline, and is an error otherwise; so is a file.
    """
    folder = pathlib.Path(folder)
    if pipeline.learned is not None:
        raise ValueError(
            "`pipeline` must have no learned inputs; no format knows them. Save them "
            "with `draftx.save_learned_inputs`, and what "
            "`draftx.remove_learned_inputs(pipeline)` gives with `draftx.save`."
        )
    for model in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        check_no_lora(model)
    if folder.suffix == ".safetensors":
        _save_single_file(pipeline, folder)
        return
    check_replaceable(folder, "pipeline", _is_pipeline)
    with new_folder(folder) as new:
        token_ids = save_tokenizer(pipeline.tokenizer, new / "tokenizer")
        save_component(pipeline.unet, new / "unet")
        save_component(pipeline.vae, new / "vae")
        save_component(pipeline.text_encoder, new / "text_encoder", token_ids=token_ids)
        scheduler = {"_diffusers_version": DIFFUSERS_VERSION}
        scheduler |= pipeline.sampler.config.to_dict()
        write_json(new / "scheduler" / "scheduler_config.json", scheduler)
        write_json(new / "model_index.json", _model_index(pipeline))


def _save_single_file(pipeline: Pipeline, path: pathlib.Path) -> None:
    if path.exists():
        raise ValueError(
            f"`folder` must not exist if it names a file; {str(path)!r} does. Choose "
            "another name."
        )
    write_tensors(path, single_file_tensors(pipeline))


def single_file_tensors(pipeline: Pipeline) -> Mapping[str, np.ndarray]:
    """Makes the tensors of a single file, each when it is asked for.

    **Arguments:**

    - `pipeline`: As for `save`.
    """
    # That of version 2, whose queries, keys and values are one matrix there.
    is_open_clip = pipeline.text_encoder.config.hidden_act == "gelu"
    parts = (
        OriginalTensors(pipeline.unet),
        OriginalTensors(pipeline.vae),
        OriginalTensors(pipeline.text_encoder, is_open_clip=is_open_clip),
    )
    return ChainMap(*parts)  # pyright: ignore


def _is_pipeline(folder: pathlib.Path) -> bool:
    return (folder / "model_index.json").is_file()


def _model_index(pipeline: Pipeline) -> dict[str, object]:
    seen, latents = pipeline.conditioning_channels, pipeline.vae.config.latent_channels
    kind = {
        latents: "StableDiffusionInstructPix2PixPipeline",
        # A mask, and the latents of what is left.
        latents + 1: "StableDiffusionInpaintPipeline",
    }
    return {
        "_class_name": kind.get(seen, "StableDiffusionPipeline"),
        "_diffusers_version": DIFFUSERS_VERSION,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
