"""Writes `scheduler.npz`: chains of diffusers' samplers with a toy in place of a UNet.

python tests/goldens/make_scheduler.py

Of each sampler, `ddim`, `ancestral` and `euler`: `<sampler>_cases` is JSON, one
scheduler config with `num_inference_steps` (and `eta`, or `variance_type`) each;
`<sampler>_timesteps` has what each chain visits, one after the other, and
`<sampler>_final` what each ends with. `alphas_<schedule>` are the tables, thinned. Made
with PyTorch 2.13.0, diffusers 0.42.1.
"""

import itertools
import json
import pathlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np


# Stable Diffusion 1.4's `scheduler_config.json`, PNDM's, as it is published.
SD14 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.7.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
# Other ways to say which noise was trained on.
SCHEDULES = {
    "linear": dict(beta_schedule="linear", beta_start=0.0001, beta_end=0.02),
    "cosine": dict(beta_schedule="squaredcos_cap_v2"),
    "trained": dict(trained_betas=np.linspace(0.001, 0.02, 50).tolist()),
    "zero_snr": dict(rescale_betas_zero_snr=True),
}
STEPS = (1, 7, 20, 50)
PREDICTIONS = ("epsilon", "sample", "v_prediction")
THINNED = 7
SPACINGS = ("leading", "trailing", "linspace")
# An offset is for `leading` alone.
OFFSETS = (("leading", 0), ("leading", 1), ("trailing", 0), ("linspace", 0))
VARIANCES = ("fixed_small", "fixed_large")


def ddim_cases() -> list[dict[str, Any]]:
    """Changes to `SD14`, each with `num_inference_steps` and `eta`."""
    every = [
        dict(
            num_inference_steps=steps,
            prediction_type=prediction,
            timestep_spacing=spacing,
            set_alpha_to_one=to_one,
            steps_offset=offset,
            eta=eta,
        )
        for steps, prediction, spacing, (to_one, offset), eta in itertools.product(
            STEPS,
            PREDICTIONS,
            SPACINGS,
            # An offset is for `leading` alone, and independent of the last step.
            ((False, 1), (True, 0)),
            (0.0, 0.7),
        )
    ]
    # As many steps as there are. With an offset, diffusers leaves its own table.
    whole = dict(num_inference_steps=1000, prediction_type="epsilon", eta=0.7)
    every += [
        whole | dict(timestep_spacing=spacing, steps_offset=0, set_alpha_to_one=to_one)
        for spacing in SPACINGS
        for to_one in (False, True)
    ]
    clipped = dict(num_inference_steps=20, prediction_type="epsilon", eta=0.7)
    every += [clipped | dict(clip_sample=True, clip_sample_range=0.5)]
    few = dict(num_inference_steps=7, prediction_type="epsilon", eta=0.7)
    few |= dict(set_alpha_to_one=True, steps_offset=0)
    zero_snr = [
        case | dict(set_alpha_to_one=True, eta=eta)
        for case, eta in itertools.product(zero_snr_cases(), (0.0, 0.7))
    ]
    return every + of_schedules(few) + zero_snr


def zero_snr_cases() -> list[dict[str, Any]]:
    """Models of velocities that start from noise alone, as they are published.

    The last timestep is visited with the first two ways of spacing.
    """
    zero_snr = dict(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    return [
        zero_snr
        | dict(num_inference_steps=steps, timestep_spacing=spacing, steps_offset=0)
        for steps, spacing in itertools.product(
            (1, 7, 50), ("trailing", "linspace", "leading")
        )
    ]


def of_schedules(case: dict[str, Any]) -> list[dict[str, Any]]:
    """The case with each of `SCHEDULES`."""
    length = lambda changes: (
        dict(num_train_timesteps=50) if "trained_betas" in changes else {}
    )
    return [case | changes | length(changes) for changes in SCHEDULES.values()]


def ancestral_cases() -> list[dict[str, Any]]:
    """Changes to `SD14`, each with `num_inference_steps` and `variance_type`."""
    every = [
        dict(
            num_inference_steps=steps,
            prediction_type=prediction,
            timestep_spacing=spacing,
            steps_offset=offset,
            variance_type=variance,
        )
        for steps, prediction, (spacing, offset), variance in itertools.product(
            STEPS, PREDICTIONS, OFFSETS, VARIANCES
        )
    ]
    for variance in VARIANCES:
        few = dict(num_inference_steps=7, steps_offset=0, variance_type=variance)
        few |= dict(prediction_type="epsilon")
        every += of_schedules(few)
        clipped = dict(num_inference_steps=20, clip_sample=True, clip_sample_range=0.5)
        every += [few | clipped]
        every += [case | dict(variance_type=variance) for case in zero_snr_cases()]
    return every


def euler_cases() -> list[dict[str, Any]]:
    """Changes to `SD14`, each with `num_inference_steps`."""
    every = [
        dict(
            num_inference_steps=steps,
            prediction_type=prediction,
            timestep_spacing=spacing,
            steps_offset=offset,
        )
        for steps, prediction, (spacing, offset) in itertools.product(
            STEPS, PREDICTIONS, OFFSETS
        )
    ]
    few = dict(num_inference_steps=7, prediction_type="epsilon")
    spaced = [few | dict(timestep_spacing=spacing) for spacing in SPACINGS]
    every += [case for each in spaced for case in of_schedules(each)]
    return every + zero_snr_cases()


def toy(latents, timestep):
    """What stands in for the UNet: bounded, and different at each step."""
    # Nothing that libraries approximate, each in its own way.
    return latents / (1 + abs(latents)) * (0.5 + timestep / 2000) + 0.1


def scheduler(changes: dict[str, Any], name: str = "DDIMScheduler"):
    """diffusers' scheduler of that name for the published file with these changes."""
    import diffusers

    return getattr(diffusers, name).from_config(SD14 | changes)


def ddim(case: dict[str, Any], latents, noise) -> tuple[np.ndarray, np.ndarray]:
    """The timesteps and the last latents of one case."""
    import torch

    case = dict(case)
    num_steps, eta = case.pop("num_inference_steps"), case.pop("eta")
    ddim = scheduler(case)
    ddim.set_timesteps(num_steps)
    x = torch.as_tensor(latents, dtype=torch.float64)
    for timestep, z in zip(ddim.timesteps, noise[:num_steps], strict=True):
        x = ddim.step(
            toy(x, int(timestep)),
            int(timestep),
            x,
            eta=eta,
            variance_noise=torch.as_tensor(z, dtype=torch.float64),
        ).prev_sample
    return ddim.timesteps.numpy().astype(np.int32), x.numpy().astype(np.float32)


def ancestral(case: dict[str, Any], latents, noise) -> tuple[np.ndarray, np.ndarray]:
    """The timesteps and the last latents of one case."""
    import torch

    case = dict(case)
    num_steps = case.pop("num_inference_steps")
    ddpm = scheduler(case, "DDPMScheduler")
    ddpm.set_timesteps(num_steps)
    x = torch.as_tensor(latents, dtype=torch.float64)
    for timestep, z in zip(ddpm.timesteps, noise[:num_steps], strict=True):
        # It draws its noise itself.
        given = lambda *_, z=z, **__: torch.as_tensor(z, dtype=torch.float64)
        with mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", given):
            x = ddpm.step(toy(x, int(timestep)), int(timestep), x).prev_sample
    return ddpm.timesteps.numpy().astype(np.int32), x.numpy().astype(np.float32)


def euler(case: dict[str, Any], latents, noise) -> tuple[np.ndarray, np.ndarray]:
    """The timesteps and the last latents of one case."""
    import torch

    del noise
    case = dict(case)
    num_steps = case.pop("num_inference_steps")
    euler = scheduler(case, "EulerDiscreteScheduler")
    euler.set_timesteps(num_steps)
    if case.get("rescale_betas_zero_snr"):
        # It starts at 4096 and subtracts; in float32 that alone costs 1e-5.
        euler.sigmas = euler.sigmas.double()
    x = torch.as_tensor(latents, dtype=torch.float64) * euler.init_noise_sigma
    for timestep in euler.timesteps:
        prediction = toy(euler.scale_model_input(x, timestep), float(timestep))
        x = euler.step(prediction, timestep, x).prev_sample
    return euler.timesteps.numpy(), x.numpy().astype(np.float32)


# Each sampler's cases, and what they end with.
SAMPLERS: dict[str, tuple[Callable, Callable]] = {
    "ddim": (ddim_cases, ddim),
    "ancestral": (ancestral_cases, ancestral),
    "euler": (euler_cases, euler),
}


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Latents, and noise for each of a thousand steps."""
    # The generator whose numbers NumPy promises never to change.
    rng = np.random.RandomState(0)
    latents = rng.standard_normal((1, 2, 1, 3)).astype(np.float32)
    return latents, rng.standard_normal((1000, *latents.shape)).astype(np.float32)


def main() -> None:
    latents, noise = inputs()
    arrays: dict[str, Any] = {}
    for name, (cases, reference) in SAMPLERS.items():
        results = [reference(case, latents, noise) for case in cases()]
        arrays[f"{name}_cases"] = np.asarray(json.dumps(cases()))
        arrays[f"{name}_timesteps"] = np.concatenate([steps for steps, _ in results])
        arrays[f"{name}_final"] = np.stack([final for _, final in results])
        print(f"{name}: {len(results)} cases")
    for name, changes in {"sd14": {}, **SCHEDULES}.items():
        alphas = scheduler(changes).alphas_cumprod.numpy()
        arrays[f"alphas_{name}"] = alphas[::THINNED]
    path = pathlib.Path(__file__).with_name("scheduler.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
