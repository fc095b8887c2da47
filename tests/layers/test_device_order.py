"""Weights of convolutions lie as their device reads them, and are what they were."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from draftx import add_lora
from draftx._mesh import data_mesh, to_mesh
from draftx.kernels import compiling_for, Device, weight_order
from draftx.layers import Conv2d, in_device_order
from draftx.lora import LoRAConv2d


def _order(array):
    return array.format.layout.major_to_minor


@pytest.fixture
def conv(getkey):
    return Conv2d(4, 8, key=getkey())


def test_only_an_nvidia_gpu_reads_output_channels_first():
    assert weight_order(Device("cuda", (9, 0))) == (3, 0, 1, 2)
    for platform in ("cpu", "tpu", "rocm"):
        assert weight_order(Device(platform)) == (0, 1, 2, 3)


def test_what_is_computed_stays(conv, getkey):
    x = jr.normal(getkey(), (2, 6, 6, 4))
    with compiling_for("cuda"):
        ordered = in_device_order({"conv": conv, "other": x})
    assert _order(ordered["conv"].weight) == (3, 0, 1, 2)
    assert _order(ordered["other"]) == (0, 1, 2, 3)
    np.testing.assert_array_equal(ordered["conv"].weight, conv.weight)
    np.testing.assert_allclose(ordered["conv"](x), conv(x), rtol=1e-6, atol=1e-6)
    # And on a mesh, where training puts it.
    everywhere = NamedSharding(data_mesh(), PartitionSpec())
    placed = to_mesh(ordered["conv"], everywhere)
    assert _order(placed.weight) == (3, 0, 1, 2)
    # The program takes it as it lies.
    lowered = jax.jit(lambda conv, x: conv(x)).lower(ordered["conv"], x)
    assert "{2,1,0,3}" in lowered.compile().as_text().splitlines()[0]


def test_nothing_moves_where_there_is_nothing_to_gain(conv):
    assert in_device_order(conv).weight is conv.weight


def test_adapted_convolutions_and_shapes_are_found(short_pipeline):
    pipeline = add_lora(short_pipeline, rank=2, key=jr.key(0), targets=["conv1"])
    is_ours = lambda node: isinstance(node, LoRAConv2d)
    with compiling_for("cuda"):
        ordered = in_device_order(pipeline.unet)
    found = [n for n in jax.tree.leaves(ordered, is_leaf=is_ours) if is_ours(n)]
    assert found
    assert all(_order(node.base.weight) == (3, 0, 1, 2) for node in found)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), ordered
    )
    with compiling_for("cuda"):
        shapes = in_device_order(shapes)
    assert shapes.conv_in.weight.format.layout.major_to_minor == (3, 0, 1, 2)
    with compiling_for("cuda"):
        nowhere = in_device_order(eqx.filter_eval_shape(lambda: pipeline.unet))
    assert nowhere.conv_in.weight.format.layout.major_to_minor == (3, 0, 1, 2)
    assert shapes.conv_in.weight.dtype == jnp.float32
