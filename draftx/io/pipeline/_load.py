import os
import pathlib
from typing import Any, Final

from ...pipeline import Pipeline
from ..formats import check_variant, ModelFileError
from ..sources import EmbeddedFolder, is_repo_id
from ._dtypes import check_dtype_or_stored
from ._folder import load_folder
from ._hub import download
from ._single_file import load_single_file


# Those that come with draftx: names of their folders, and what they are.
EMBEDDED_MODELS: Final = {
    "tiny": "the embedded model",
    "tiny-sr": "the embedded super-resolution model",
}


def load(
    source: str | os.PathLike,
    *,
    dtype: Any = None,
    revision: str | None = None,
    variant: str | None = None,
    config: str | os.PathLike | None = None,
) -> Pipeline:
    """Loads a text-to-image model.

    **Arguments:**

    - `source`: `"tiny"`, the model that comes with draftx, or `"tiny-sr"`, one that
        enlarges the image that it sees; a folder in the layout of diffusers; the name
        of a repository on the Hugging Face Hub, such as
        `"CompVis/stable-diffusion-v1-4"`; or a single file of the layout that Stable
        Diffusion was published in, `.safetensors` or `.ckpt`. Nothing in a pickle is
        run.
    - `dtype`: Of all weights, and what is computed in: float32 if `None`, whatever the
        files have; that of each network's file if `"stored"`. `jnp.bfloat16` halves
        memory.
    - `revision`: A branch, tag or commit of the repository; pin it for results that
        can be reproduced.
    - `variant`: Of the weights, such as `"bf16"` for files called
        `diffusion_pytorch_model.bf16.safetensors`. Parts without it are read without,
        with a warning. With `None`, float16 ones are read where there are no others.
    - `config`: For a single file alone, which has no configs: `"v1"`, `"v2"` (velocity,
        768 pixels), `"v2-base"` (noise, 512 pixels), `"turbo"`, or a folder of
        diffusers whose configs and tokenizer are read. `None` tells 1.x and 2.x by the
        file.

    Configs of 2022 are repaired as diffusers' pipeline does, with a warning:
    `steps_offset` of the scheduler becomes 1, its `clip_sample` false, and a
    `sample_size` below 64 written before diffusers 0.9 becomes 64. What the scheduler's
    file leaves out is as in the class that it is of; one that noises otherwise than
    DDPM, such as flow matching's, is refused.

    A UNet with more channels than the latents have is read too: those of
    InstructPix2Pix see the column `conditioning_image` of the rows, others, such as
    inpainting's, the column `conditioning` as it is.

    **Returns:**

    The pipeline. A file that is damaged or does not fit is a
    [`draftx.io.ModelFileError`][]; there is no partly loaded model.
    """
    dtype, variant = check_dtype_or_stored(dtype), check_variant(variant)
    path = pathlib.Path(source)
    if config is not None and not path.is_file():
        raise ValueError(
            "`config` must be None unless `source` is a single file; got "
            f"{str(config)!r} for {str(source)!r}."
        )
    is_hub = (
        isinstance(source, str)
        and source not in EMBEDDED_MODELS
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
    if isinstance(source, str) and source in EMBEDDED_MODELS:
        folder = EmbeddedFolder(source).find(EMBEDDED_MODELS[source])
        return load_folder(folder, dtype, variant)
    if path.is_dir():
        return load_folder(path, dtype, variant)
    if path.is_file():
        if variant is not None:
            raise ValueError(
                "`variant` must be None for a single file, which is one; got "
                f"{variant!r} for {str(source)!r}."
            )
        return load_single_file(path, dtype, None if config is None else str(config))
    raise ModelFileError(
        f"`source` must be {', '.join(map(repr, EMBEDDED_MODELS))}, a folder, a file "
        f"or a repository 'owner/name'; got {str(source)!r}, and there is no such "
        "folder."
    )
