"""Old configs, repaired as diffusers' `StableDiffusionPipeline` does when it loads one.

Single parts and configs made in Python stay as they are, there as here.
"""

import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

from ...models import is_number
from ._schedulers import has_offset


# From here to the user: `describe_folder`, `load_folder` and `load`.
_STACKLEVEL = 5


def repair_scheduler(
    config: Mapping[str, Any], path: pathlib.Path, name: str | None
) -> dict[str, Any]:
    """Corrects a `scheduler_config.json` of a latent model, and warns of it.

    **Arguments:**

    - `config`: The parsed file.
    - `path`: Of the file, for the warning.
    - `name`: Of the scheduler's class.
    """
    repaired = dict(config)
    offset = config.get("steps_offset", 0 if has_offset(name) else 1)
    # What is no number is refused later, not repaired.
    if offset != 1 and (offset is None or is_number(offset)):
        said = "does not say `steps_offset`, which then is 0"
        if "steps_offset" in config:
            said = f"says `steps_offset: {config['steps_offset']}`"
        warnings.warn(
            f"{str(path)!r} {said}; it is taken as 1, as diffusers' pipeline takes it: "
            "with 0, the last step of a chain may go from a noise level to the same. "
            "Chains with `timestep_spacing` 'leading' visit other timesteps for it. "
            "`draftx.save` writes the 1.",
            stacklevel=_STACKLEVEL,
        )
        repaired["steps_offset"] = 1
    if config.get("clip_sample") is True:
        warnings.warn(
            f"{str(path)!r} says `clip_sample: true`; it is taken as false, as "
            "diffusers' pipeline takes it: that is for pixels, and latents reach "
            "beyond [-1, 1]. `draftx.save` writes false.",
            stacklevel=_STACKLEVEL,
        )
        repaired["clip_sample"] = False
    return repaired


def repair_unet(config: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """Corrects the `sample_size` of a UNet's config from before diffusers 0.9.

    **Arguments:**

    - `config`: The parsed file.
    - `path`: Of the file, for the warning.
    """
    size, version = config.get("sample_size"), str(config.get("_diffusers_version"))
    release = re.match(r"(\d+)\.(\d+)", version)
    is_old = release is not None and (int(release[1]), int(release[2])) < (0, 9)
    if not (is_old and is_number(size) and size < 64):
        return dict(config)
    warnings.warn(
        f"{str(path)!r}, of diffusers {version}, says `sample_size: {size}`; it is "
        "taken as 64, as diffusers' pipeline takes it, because that was a default then "
        "and no model's size. For a model of that size, pass `height` and `width` to "
        "`draftx.Sampling`, or take `_diffusers_version` out of the file.",
        stacklevel=_STACKLEVEL,
    )
    return {**config, "sample_size": 64}
