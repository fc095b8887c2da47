import os
import pathlib
from typing import Any

from ...pipeline import Pipeline
from ..formats import check_variant, ModelFileError, TensorFile
from ..sources import EmbeddedFolder, is_repo_id
from ._components import check_dtype
from ._families import looks_like
from ._folder import load_folder
from ._hub import download


def load(
    source: str | os.PathLike,
    *,
    dtype: Any = None,
    revision: str | None = None,
    variant: str | None = None,
) -> Pipeline:
    """Loads a text-to-image model.

    **Arguments:**

    - `source`: `"tiny"`, the model that comes with draftx; a folder in the layout of
        diffusers; or the name of a repository on the Hugging Face Hub, such as
        `"CompVis/stable-diffusion-v1-4"`.
    - `dtype`: Of all weights, and what is computed in: float32 if `None`, whatever the
        files have. `jnp.bfloat16` halves memory.
    - `revision`: A branch, tag or commit of the repository; pin it for results that
        can be reproduced.
    - `variant`: Of the weights, such as `"bf16"` for files called
        `diffusion_pytorch_model.bf16.safetensors`. Parts without it are read without,
        with a warning. With `None`, float16 ones are read where there are no others.

    Configs of 2022 are repaired as diffusers' pipeline does, with a warning:
    `steps_offset` of the scheduler becomes 1, its `clip_sample` false, and a
    `sample_size` below 64 written before diffusers 0.9 becomes 64. What the scheduler's
    file leaves out is as in the class that it is of; one that noises otherwise than
    DDPM, such as flow matching's, is refused.

    **Returns:**

    The pipeline. A file that is damaged or does not fit is a
    [`draftx.io.ModelFileError`][]; there is no partly loaded model.
    """
    dtype, variant = check_dtype(dtype), check_variant(variant)
    path = pathlib.Path(source)
    is_hub = (
        isinstance(source, str)
        and source != "tiny"
        and not path.exists()
        and is_repo_id(source)
    )
    if revision is not None and not is_hub:
        raise ValueError(
            "`revision` must be None unless `source` is on the Hugging Face Hub; got "
            f"{revision!r} for {str(source)!r}."
        )
    if is_hub:
        return load_folder(download(str(source), revision, variant), dtype, variant)
    if source == "tiny":
        folder = EmbeddedFolder("tiny").find("the embedded model")
        return load_folder(folder, dtype, variant)
    if path.is_dir():
        return load_folder(path, dtype, variant)
    if path.is_file():
        raise ModelFileError(_about_file(path))
    raise ModelFileError(
        f'`source` must be "tiny", a folder or a repository "owner/name"; got '
        f"{str(source)!r}, and there is no such folder."
    )


def _about_file(path: pathlib.Path) -> str:
    rule = "`source` must be a folder, not a single file"
    if path.suffix == ".safetensors":
        shapes = TensorFile(path).shapes
        if any("lora" in key for key in shapes):
            return (
                f"{rule}; {str(path)!r} is a LoRA. Load the model that it was trained "
                "on, then the LoRA with `draftx.load_lora`."
            )
        if (kind := looks_like(shapes)).endswith("not supported."):
            return f"{rule}; got {str(path)!r}.{kind}"
        if len(shapes) == 1:
            return (
                f"{rule}; {str(path)!r} is a learned word. Load the model that it was "
                "learned with, then the word with `draftx.load_embedding`."
            )
    return (
        f"{rule}; got {str(path)!r}. Convert it with diffusers, "
        f"`StableDiffusionPipeline.from_single_file({str(path)!r})"
        '.save_pretrained("folder")`, and pass the folder.'
    )
