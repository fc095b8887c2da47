"""What a run that is there already has to do with one that is said again."""

import dataclasses

from ...io.checkpoints import saved_steps
from ...layers import Remat
from ..config import config_table, differences, read_config, RunConfig
from ..folder import RunFolder


# A run may go on with others of these.
_FREE = (
    "output_dir",
    "max_train_steps",
    "lora_scales",
    "distributed",
    "host_timeout",
    "num_validation_images",
    "validation_prompt",
    "validation_steps",
    "report_to",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "checkpoints",
)


def as_begun(config: RunConfig, folder: RunFolder) -> RunConfig:
    """Fills in the tier that a run goes on with, where `config` leaves it open.

    **Arguments:**

    - `config`: As it is said now.
    - `folder`: Of the run, which may have begun.
    """
    if config.memory.remat != Remat.AUTO or not _has_checkpoint(folder):
        return config
    return with_remat(config, read_config(folder.config).memory.remat)


def with_remat(config: RunConfig, remat: str) -> RunConfig:
    """Makes the configuration with another tier.

    **Arguments:**

    - `config`, `remat`: The configuration, and the name of the tier.
    """
    memory = dataclasses.replace(config.memory, remat=str(remat))
    return dataclasses.replace(config, memory=memory)


def _has_checkpoint(folder: RunFolder) -> bool:
    """Whether there is something to be gone on with."""
    checkpoints = folder.checkpoints
    is_any = checkpoints.is_dir() and any(checkpoints.iterdir())
    return folder.config.is_file() and is_any


def check_unchanged(config: RunConfig, folder: RunFolder) -> None:
    """Raises a `ValueError` if a run that is there was begun otherwise.

    **Arguments:**

    - `config`, `folder`: As it is said now, and where the run is.
    """
    steps = [n for saved in saved_steps(folder.checkpoints).values() for n in saved]
    if config.checkpoints.resume == "latest" and max(steps, default=0) > (
        config.max_train_steps
    ):
        raise ValueError(
            f"`max_train_steps` must be at least {max(steps)}, the steps that the run "
            f"in {str(folder.path)!r} has taken; got {config.max_train_steps}. Say as "
            "many or more, or choose another `output_dir`."
        )
    if not _has_checkpoint(folder) or config.checkpoints.allow_changes:
        return
    before, after = (
        {k: v for k, v in config_table(c).items() if k not in _FREE}
        for c in (read_config(folder.config), config)
    )
    changed = differences(before, after)
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise ValueError(
            f"The run in {str(folder.path)!r} must be gone on with as it was begun; "
            f"changed since:\n{lines}\nChange it back, choose another `output_dir`, or "
            "say `--checkpoints.allow-changes`."
        )
