"""Which schedulers of diffusers a folder may name, and what each takes as said.

Of the signatures in diffusers 0.42. `DDIMScheduler.from_config(pipe.scheduler.config)`
forgets what a class filled in: as with `steps_offset`, what counts is how the folder's
own pipeline samples.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from ..formats import ModelFileError


_LINSPACE = dict(timestep_spacing="linspace")
_BETAS = dict(beta_start=0.00085, beta_end=0.012)
_SCALED = dict(_BETAS, beta_schedule="scaled_linear")
# Has no such field: of theirs, only a file that says it counts.
_NO_OFFSET = dict(steps_offset=None)
# Where a class differs from DDIM. All of them noise by betas, as DDPM does.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "DDIM": {},
    "DDIMInverse": {},
    "DDIMParallel": {},
    "DDPM": {},
    "DDPMParallel": {},
    "DEISMultistep": _LINSPACE,
    "DPMSolverMultistep": _LINSPACE,
    "DPMSolverMultistepInverse": _LINSPACE,
    "DPMSolverSDE": _LINSPACE | _BETAS,
    # Has no such field either, and these timesteps.
    "DPMSolverSinglestep": _LINSPACE | _NO_OFFSET,
    "EulerAncestralDiscrete": _LINSPACE,
    "EulerDiscrete": _LINSPACE,
    "HeunDiscrete": _LINSPACE | _BETAS,
    "KDPM2AncestralDiscrete": _LINSPACE | _BETAS,
    "KDPM2Discrete": _LINSPACE | _BETAS,
    "LCM": _SCALED,
    "LMSDiscrete": _LINSPACE,
    "PNDM": dict(set_alpha_to_one=False),
    "RePaint": _NO_OFFSET,
    "SASolver": _LINSPACE,
    "TCD": _SCALED,
    "UniPCMultistep": _LINSPACE,
}
_FLOW = "follows a flow between data and noise"
_SIGMAS = "belongs to models of noise levels, not of timesteps"
_TOKENS = "draws discrete tokens"
_OTHER_BETAS = "has a noise schedule of its own"
_REFUSED = {
    "Amused": _TOKENS,
    "BlockRefinement": _TOKENS,
    "CMStochasticIterative": _SIGMAS,
    "CogVideoXDDIM": _OTHER_BETAS,
    "CogVideoXDPM": _OTHER_BETAS,
    "ConsistencyDecoder": _OTHER_BETAS,
    "CosineDPMSolverMultistep": _SIGMAS,
    "DDPMWuerstchen": _OTHER_BETAS,
    "DiscreteDDIM": _TOKENS,
    "EDMDPMSolverMultistep": _SIGMAS,
    "EDMEuler": _SIGMAS,
    "EntropyBound": _TOKENS,
    "FlowMapEulerDiscrete": _FLOW,
    "FlowMatchEulerDiscrete": _FLOW,
    "FlowMatchHeunDiscrete": _FLOW,
    "FlowMatchLCM": _FLOW,
    "Helios": _FLOW,
    "HeliosDMD": _FLOW,
    "IPNDM": _OTHER_BETAS,
    "KarrasVe": _SIGMAS,
    "LTXEulerAncestralRF": _FLOW,
    "MiniMaxH3": _OTHER_BETAS,
    "Piflow": _FLOW,
    "RFD4Proteina": _OTHER_BETAS,
    "SCM": _FLOW,
    "ScoreSdeVe": _SIGMAS,
    "ScoreSdeVp": _OTHER_BETAS,
    "UnCLIP": _OTHER_BETAS,
    "VQDiffusion": _TOKENS,
}
_PROCESS = ("beta_start", "beta_end", "beta_schedule", "trained_betas")


def scheduler_class(
    index: Mapping[str, Any], config: Mapping[str, Any], path: pathlib.Path
) -> str | None:
    """Finds which scheduler a folder has, or refuses one that noises differently.

    **Arguments:**

    - `index`: The parsed `model_index.json`. The class that it names is the one that
        diffusers' pipeline makes, whichever wrote the other file.
    - `config`: The parsed `scheduler_config.json`.
    - `path`: Of that file, for the error text.
    """
    entry, of_file = index.get("scheduler"), config.get("_class_name")
    of_index = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    for name in (of_index, of_file):
        reason = _REFUSED.get(_short(name))
        if reason is not None:
            raise ModelFileError(
                f"{str(path)!r} must be of a scheduler that noises as DDPM does, by "
                f"betas; it is of {name}, which {reason}. A model of that kind is not "
                "a Stable Diffusion 1.x or 2.x; if this one is, make the folder's "
                "scheduler the one that it was published with."
            )
    name = of_index or of_file
    known = _short(name) in _DEFAULTS
    if not known and all(config.get(field) is None for field in _PROCESS):
        raise ModelFileError(
            f"{str(path)!r} must say at least one of {', '.join(_PROCESS)}, its class "
            f"{name!r} being none that draftx knows the defaults of; it says none."
        )
    return name


def has_offset(name: str | None) -> bool:
    """Whether a scheduler has `steps_offset`, which diffusers' pipeline then repairs.

    **Arguments:**

    - `name`: Of the class. Unknown ones are taken for DDIM's like.
    """
    return "steps_offset" not in _own_defaults(name, null=True)


def with_defaults(config: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """Fills in what a `scheduler_config.json` leaves to the class that it is of.

    `null` at a switch is "off" and stays.

    **Arguments:**

    - `config`: The parsed file.
    - `name`: Of the class. Unknown ones have DDIM's defaults, which
        [`draftx.diffusion.SchedulerConfig.from_dict`][] knows.
    """
    filled = dict(config)
    for field, value in _own_defaults(name).items():
        absent = field not in config
        if absent or (config[field] is None and not isinstance(value, bool)):
            filled[field] = value
    return filled


def _own_defaults(name: str | None, *, null: bool = False) -> dict[str, Any]:
    own = _DEFAULTS.get(_short(name), {})
    return {field: value for field, value in own.items() if (value is None) == null}


def _short(name: Any) -> str:
    """Without what all names have; those of JAX are named after PyTorch's."""
    return str(name).removeprefix("Flax").removesuffix("Scheduler")
