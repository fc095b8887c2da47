"""Writes `scheduler.npz`: chains of diffusers' DDIM with a toy in place of a UNet.

python tests/goldens/make_scheduler.py

`cases` is JSON, one scheduler config with `num_inference_steps` and `eta` each;
`timesteps` has what each chain visits, one after the other, and `final` what each ends
with; `alphas_<schedule>` are the tables, thinned. Made with PyTorch 2.13.0, diffusers
0.42.1.
"""

import itertools
import json
import pathlib
from typing import Any

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
}
STEPS = (1, 7, 20, 50)
PREDICTIONS = ("epsilon", "sample", "v_prediction")
THINNED = 7
SPACINGS = ("leading", "trailing", "linspace")


def cases() -> list[dict[str, Any]]:
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
    for changes in SCHEDULES.values():
        length = dict(num_train_timesteps=50) if "trained_betas" in changes else {}
        every.append(few | changes | length)
    return every


def toy(latents, timestep):
    """What stands in for the UNet: bounded, and different at each step."""
    # Nothing that libraries approximate, each in its own way.
    return latents / (1 + abs(latents)) * (0.5 + timestep / 2000) + 0.1


def scheduler(changes: dict[str, Any]):
    """diffusers' DDIM for the published file with these changes."""
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(SD14 | changes)


def reference(case: dict[str, Any], latents, noise) -> tuple[np.ndarray, np.ndarray]:
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


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Latents, and noise for each of a thousand steps."""
    # The generator whose numbers NumPy promises never to change.
    rng = np.random.RandomState(0)
    latents = rng.standard_normal((1, 2, 1, 3)).astype(np.float32)
    return latents, rng.standard_normal((1000, *latents.shape)).astype(np.float32)


def main() -> None:
    latents, noise = inputs()
    arrays: dict[str, Any] = {"cases": np.asarray(json.dumps(cases()))}
    results = [reference(case, latents, noise) for case in cases()]
    arrays["timesteps"] = np.concatenate([timesteps for timesteps, _ in results])
    arrays["final"] = np.stack([final for _, final in results])
    for name, changes in {"sd14": {}, **SCHEDULES}.items():
        alphas = scheduler(changes).alphas_cumprod.numpy()
        arrays[f"alphas_{name}"] = alphas[::THINNED]
    path = pathlib.Path(__file__).with_name("scheduler.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, {len(results)} cases")


if __name__ == "__main__":
    main()
