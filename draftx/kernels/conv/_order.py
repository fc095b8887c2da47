from .._device import Device


def weight_order(device: Device) -> tuple[int, ...]:
    """Says in which order a device reads the axes of a convolution's weight.

    cuDNN reads all of one output channel after the other. A weight that lies otherwise
    in memory is copied by every program, once for the forward pass and once for the
    backward pass: 2 GiB for Stable Diffusion in bfloat16.

    **Arguments:**

    - `device`: What is compiled for.

    **Returns:**

    The axes of `[height, width, in_channels, out_channels]`, the slowest first.
    """
    return (3, 0, 1, 2) if device.platform == "cuda" else (0, 1, 2, 3)
