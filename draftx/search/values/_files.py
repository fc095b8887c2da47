"""A learned value as a folder: `config.json` and `model.safetensors`."""

import dataclasses
import os
import pathlib
from typing import Any, Final

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

from ..._checks import check_is
from ..._custom_types import Real
from ...diffusion import SchedulerConfig
from ...io.formats import (
    check_replaceable,
    ModelFileError,
    new_folder,
    open_weights,
    read_json,
    write_json,
    write_tensors,
)
from ...io.pipeline import fill
from ...models import checkpoint_arrays, known_fields
from ._learned import LearnedValue
from ._network import ValueNetwork, ValueNetworkConfig


_CLASS: Final = "LearnedValue"
_FILES: Final = ("config.json", "model.safetensors")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Fitted:
    """What the file says beside the sizes of the network and the schedule."""

    latent_shape: tuple[int, ...]
    timesteps: tuple[Real, ...]
    reward_mean: Real
    reward_std: Real

    def __post_init__(self):
        if len(self.latent_shape) != 3 or min(self.latent_shape) < 1:
            raise ValueError(
                "`latent_shape` of the value must be height, width and channels; got "
                f"{list(self.latent_shape)}."
            )
        if not self.reward_std > 0:
            raise ValueError(
                f"`reward_std` of the value must be above 0; got {self.reward_std}."
            )


def save_value(value: LearnedValue, folder: str | os.PathLike) -> None:
    """Writes a learned value as a folder of `config.json` and `model.safetensors`.

    **Arguments:**

    - `value`: From [`draftx.search.fit_value`][].
    - `folder`: Made, or replaced if it is empty or a saved value: there whole or not at
        all.
    """
    check_is("value", value, LearnedValue, "draftx.search.fit_value(...).value")
    config = {
        "_class_name": _CLASS,
        **dataclasses.asdict(value.network.config),
        "latent_shape": list(value.latent_shape),
        "timesteps": list(value.timesteps),
        "reward_mean": float(value.mean),
        "reward_std": float(value.std),
        "scheduler": value.scheduler.to_dict(),
    }
    check_replaceable(pathlib.Path(folder), "value", _is_value)
    with new_folder(pathlib.Path(folder)) as new:
        write_tensors(new / "model.safetensors", checkpoint_arrays(value.network))
        write_json(new / "config.json", config)


def load_value(folder: str | os.PathLike) -> LearnedValue:
    """Reads a learned value from its folder.

    **Arguments:**

    - `folder`: As [`draftx.search.save_value`][] writes it.

    Raises a [`draftx.io.ModelFileError`][] that names the file and what is wrong in it.
    For which latents it is good is looked at when it is used.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ModelFileError(
            "`folder` must be one that `draftx.search.save_value` has written; "
            f"{str(folder)!r} is no folder."
        )
    path = folder / "config.json"
    config = read_json(path)
    if config.get("_class_name") != _CLASS:
        raise ModelFileError(
            f"{str(path)!r} must describe a {_CLASS}, as `draftx.search.save_value` "
            f"writes it; it describes {config.get('_class_name')!r}."
        )
    missing = {field.name for field in dataclasses.fields(_Fitted)} - set(config)
    if missing:
        raise ModelFileError(
            f"{str(path)!r} must say {sorted(missing)}, as `draftx.search.save_value` "
            "writes it; it does not. Save the value again."
        )
    try:
        fitted = _Fitted(**known_fields(_Fitted, config, "the value"))
        scheduler = SchedulerConfig.from_dict(_mapping(config, "scheduler"))
        sizes = ValueNetworkConfig.from_dict(config)
        if fitted.latent_shape[2] != sizes.in_channels:
            raise ValueError(
                "`latent_shape` of the value must end in the channels that the network "
                f"takes, {sizes.in_channels}; got {list(fitted.latent_shape)}."
            )
        skeleton = eqx.filter_eval_shape(ValueNetwork, sizes, key=jr.key(0))
    except (TypeError, ValueError) as e:
        raise ModelFileError(f"{str(path)!r} describes no {_CLASS}: {e}") from e
    height, width, channels = fitted.latent_shape
    return LearnedValue(
        network=fill(skeleton, open_weights(folder, "model")),
        mean=jnp.asarray(fitted.reward_mean, jnp.float32),
        std=jnp.asarray(fitted.reward_std, jnp.float32),
        timesteps=fitted.timesteps,
        latent_shape=(height, width, channels),
        scheduler=scheduler,
    )


def _is_value(folder: pathlib.Path) -> bool:
    return {path.name for path in folder.iterdir()} <= set(_FILES)


def _mapping(config: Any, name: str) -> dict[str, Any]:
    value = config.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be an object; got {value!r}.")
    return value
