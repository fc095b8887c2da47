import numpy as np
from jaxtyping import Float, Int

from ._schedule import SchedulerConfig


def spaced_timesteps(
    config: SchedulerConfig, num_inference_steps: int
) -> Float[np.ndarray, " steps"]:
    """Computes the timesteps that a chain visits, noisiest first, fractions included.

    Fractional ones come from `linspace` alone. What lies beyond the schedule is the
    first step of `leading` spacing with an offset and as many steps as there are.

    ??? cite

        [Common Diffusion Noise Schedules and Sample Steps are
        Flawed](https://arxiv.org/abs/2305.08891), table 2.
    """
    train = config.num_train_timesteps
    if not 1 <= num_inference_steps <= train:
        raise ValueError(
            f"`num_inference_steps` must lie in [1, {train}]; got "
            f"{num_inference_steps}."
        )
    if config.timestep_spacing == "leading":
        steps = np.arange(num_inference_steps) * (train // num_inference_steps)
        return (steps[::-1] + config.steps_offset).astype(np.float64)
    if config.timestep_spacing == "trailing":
        stride = train / num_inference_steps
        # By rounding, a stride such as 1000 / 61 fits in once more than it should.
        return np.round(np.arange(train, 0, -stride)[:num_inference_steps]) - 1
    return np.linspace(0, train - 1, num_inference_steps)[::-1]


def whole_timesteps(
    config: SchedulerConfig, num_inference_steps: int
) -> Int[np.ndarray, " steps"]:
    """Rounds `spaced_timesteps` to whole numbers."""
    return np.round(spaced_timesteps(config, num_inference_steps)).astype(np.int64)
