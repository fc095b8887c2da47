"""The programs that `compiled_plan.py` reads, compiled for its target."""

import argparse
import re
from typing import Any

import jax
from _models import gradient_program, make_inputs, sampling_program
from _targets import Target
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import draftx
from draftx._compilation import compiler_options
from draftx.kernels import compiling_for
from draftx.layers import in_device_order


class CannotBeCompiled(Exception):
    """An option that XLA does not take, or a program that does not fit."""


class DoesNotFit(CannotBeCompiled):
    """A program needs more memory than its target has."""


def compile_for(args: argparse.Namespace, target: Target) -> tuple[Any, int]:
    """**Returns:**

    The compiled program that the options of `compiled_plan.py` name, and for how many
    devices.

    Raises `DoesNotFit`, by how much.
    """
    inputs = make_inputs(
        args.model, dtype=args.dtype, batch=args.batch, rank=args.rank, only_shapes=True
    )
    sampling = draftx.Sampling(args.num_inference_steps)
    devices = target.devices(args.topology)
    count = len(devices) if args.topology else 1
    mesh = _mesh(devices, args.batch) if count > 1 else None
    with compiling_for(target.platform, target.compute_capability):
        if args.what == "sampling":
            program = sampling_program(inputs, sampling, mesh)
        else:
            lv = args.method == "draft-lv"
            method = draftx.DRaFTLV() if lv else draftx.DRaFT(truncation_steps=args.k)
            memory = draftx.Memory(args.remat, args.images_at_once)
            program = gradient_program(inputs, method, sampling, memory, mesh=mesh)
        # As a training holds them: whole on each device; rows are divided inside.
        one = SingleDeviceSharding(devices[0])
        sharding = one if mesh is None else NamedSharding(mesh, PartitionSpec())
        arrays = in_device_order(_on(program.arrays, sharding))
        out = None if mesh and args.what == "sampling" else sharding
        traced = jax.jit(program.fn, out_shardings=out).trace(arrays)
        lowered = traced.lower(lowering_platforms=(target.platform,))
        platform = "gpu" if target.platform == "cuda" else target.platform
        options = compiler_options(platform) | dict(map(_parse, args.flags))
        try:
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            raise _translated(error, target) from error
    _check_fits(compiled.memory_analysis(), target)
    return compiled, count


def _parse(flag: str) -> tuple[str, str | bool]:
    name, _, value = flag.partition("=")
    return name, {"true": True, "false": False}.get(value.lower(), value)


def _mesh(devices: list[Any], batch: int) -> Mesh:
    if batch % len(devices) != 0:
        raise SystemExit(
            f"--batch must be divisible by the {len(devices)} devices of the topology; "
            f"got {batch}"
        )
    return Mesh(devices, ("data",))


def _on(arrays: Any, sharding: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arrays
    )


def _check_fits(memory: Any, target: Target) -> None:
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    needed += memory.output_size_in_bytes - memory.alias_size_in_bytes
    needed = (needed + memory.generated_code_size_in_bytes) / 2**30
    if needed > target.memory_gib:
        raise DoesNotFit(_message(needed, target))


def _message(needed: float, target: Target) -> str:
    return (
        f"The program must fit into the memory of one {target.name}, "
        f"{target.memory_gib:.1f} GiB; it needs {needed:.1f} GiB, "
        f"{needed - target.memory_gib:.1f} GiB too much. Use --remat nested, "
        "--images-at-once 1, fewer --k or a smaller --batch."
    )


def _translated(error: Exception, target: Target) -> Exception:
    """What a TPU's compiler says of too large a program, in our words."""
    text = str(error)
    if "compile option" in text or "While setting option" in text:
        return CannotBeCompiled(f"--flags must be XLA's own options: {text}")
    used = re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", text)
    if used is None:
        return error
    factor = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2.0**10}[used[2]]
    return DoesNotFit(_message(float(used[1]) * factor, target))
