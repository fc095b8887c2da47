"""Which backend of a convolution is chosen, and what is said about an unknown one."""

import jax.numpy as jnp
import pytest

from draftx.kernels import choose_conv2d, compiling_for, conv2d, ConvShape, Device
from draftx.kernels.conv import _api


_CPU, _HOPPER, _TPU = Device("cpu"), Device("cuda", (9, 0)), Device("tpu")


@pytest.mark.parametrize(
    ("device", "shape", "expected"),
    [
        (_CPU, (2, 2), "patches"),
        (_CPU, (3, 3), "patches"),
        (_CPU, (2, 5), "mirrored"),
        (_CPU, (16, 16), "mirrored"),
        (_HOPPER, (2, 2), "reference"),
        (_HOPPER, (64, 64), "reference"),
        (_TPU, (64, 64), "reference"),
        (Device("metal"), (2, 2), "reference"),
    ],
)
def test_choice(device, shape, expected):
    assert choose_conv2d(device=device, shape=ConvShape(*shape)) == expected


def test_unknown_backend_is_named():
    text = "`implementation` must be None or one of .*'mirrored'.*; got 'winograd'"
    with pytest.raises(ValueError, match=text):
        conv2d(
            jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2)), implementation="winograd"
        )


def test_chosen_backend_is_the_one_called(monkeypatch):
    called = []
    spy = lambda name: lambda x, *_, **__: called.append(name) or x
    backends = {name: spy(name) for name in ("mirrored", "patches", "reference")}
    monkeypatch.setattr(_api, "_BACKENDS", backends)
    weight = jnp.ones((3, 3, 2, 2))
    for device, size, implementation in (
        (_CPU, 8, None),
        (_CPU, 4, None),
        (_TPU, 4, None),
        (_TPU, 4, "patches"),
    ):
        with compiling_for(*device):
            # Two pixels less of output than of input along each axis.
            conv2d(jnp.ones((1, size, size, 2)), weight, implementation=implementation)
    assert called == ["mirrored", "patches", "reference", "patches"]
