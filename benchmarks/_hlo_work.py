"""What one instruction of an optimised XLA program has to do: bytes and products.

Products are counted from shapes, in fusions and in calls of libraries alike: nothing
gets cheaper by moving where the compiler does not look. Bytes are those that have to be
read and written if nothing stays in a cache.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from _hlo import Array, Computation, Instruction, Module


# Names for what is there already, or for control.
FREE = frozenset(
    "parameter get-tuple-element tuple bitcast constant after-all partition-id "
    "replica-id opt-barrier add-dependency domain copy-done async-done async-update "
    "all-reduce-done all-gather-done collective-permute-done send-done recv-done "
    "slice-done dynamic-slice-done dynamic-update-slice-done "
    "while conditional call".split()
)
_SLICES = ("dynamic-slice", "slice", "gather")
# The first of these in a fusion says what it is.
_KINDS = (
    ("sums", ("reduce", "reduce-window")),
    ("concatenations", ("concatenate",)),
    ("gathers", ("gather", "scatter", "sort")),
    ("transposes", ("transpose",)),
    ("updates", ("dynamic-update-slice",)),
    ("pads", ("pad",)),
)
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute")
# Of a TPU: what is known of indices, and parts that lie side by side already.
_NO_CALLS = ("AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast")


class Work(NamedTuple):
    """What an instruction has to do.

    **Arguments:**

    - `kind`: `"products"`, `"convolutions"`, `"attention"`, `"sums"` ...
    - `flops`: Of its products, two for each.
    - `dtype`: Of the operands of these.
    - `nbytes`: Read and written.
    - `is_opaque`: Whether it is a call of which nothing but its shapes is known.
    - `serial`: What one thread of a GPU adds up, one after the other.
    """

    kind: str
    flops: int
    dtype: str
    nbytes: int
    is_opaque: bool = False
    serial: int = 0


def work_of(module: Module, where: Computation, instruction: Instruction) -> Work:
    """Counts one instruction that is not in `FREE`.

    **Arguments:**

    - `module`: The program.
    - `where`: The computation that the instruction is in.
    - `instruction`: What is asked of.
    """
    operation = instruction.operation
    operands = where.operands(instruction)
    if operation == "custom-call":
        return _of_call(instruction, operands)
    moved = instruction.nbytes + sum(operand.nbytes for operand in operands)
    if operation.startswith(_COLLECTIVES):
        return Work("collectives", 0, "f32", moved)
    if operation.endswith("-start"):
        return Work("prefetches", 0, "f32", moved)
    if operation == "fusion":
        return _of_fusion(module, where, instruction)
    if operation in ("dot", "convolution"):
        flops, dtype, kind = _of_product(where, instruction)
        return Work(kind, flops, dtype, moved)
    if operation in _SLICES:
        moved = 2 * instruction.nbytes
    if operation == "dynamic-update-slice":
        moved = 2 * operands[1].nbytes
    return Work(_kind_of({operation}), 0, "f32", moved)


def _kind_of(operations: set[str]) -> str:
    for kind, members in _KINDS:
        if operations.intersection(members):
            return kind
    moves = {"parameter", "bitcast", "tuple", "get-tuple-element", "constant", "copy"}
    if operations <= moves:
        return "copies"
    if operations <= moves | {"slice", "dynamic-slice"}:
        return "slices"
    return "elementwise"


def _of_fusion(module: Module, where: Computation, instruction: Instruction) -> Work:
    flops, dtype, kinds, operations = 0, "f32", set(), set()
    for computation in module.inside(instruction):
        for inner in computation:
            operations.add(inner.operation)
            if inner.operation in ("dot", "convolution"):
                more, dtype, kind = _of_product(computation, inner)
                flops += more
                kinds.add(kind)
    kind = min(kinds) if kinds else _kind_of(operations)
    body = module.computations[instruction.called[0]]
    read: dict[tuple[str, ...], int] = {}
    for name, nbytes in zip(instruction.operands, _reads(body), strict=True):
        # One array under two names is read once.
        array = _origin(where, name)
        read[array] = max(read.get(array, 0), nbytes)
    is_loop = instruction.attribute(r"kind=(\w+)") == "kLoop"
    serial = _serial(module, instruction) if is_loop else 0
    moved = sum(read.values()) + _written(body)
    return Work(kind, flops, dtype, moved, serial=serial)


def _serial(module: Module, instruction: Instruction) -> int:
    """A fusion that is no reduction to XLA leaves each sum to one thread."""
    lengths = [1]
    for computation in module.inside(instruction):
        for inner in computation:
            if inner.operation == "reduce":
                before = computation.operands(inner)[0].arrays[0]
                lengths.append(before.size // max(1, inner.arrays[0].size))
    return max(lengths)


def _origin(where: Computation, name: str) -> tuple[str, ...]:
    """What a value is another name of."""
    path: tuple[str, ...] = ()
    while True:
        instruction = where.instructions[name]
        if instruction.operation == "get-tuple-element":
            path = (instruction.attribute(r"index=(\d+)") or "", *path)
        elif instruction.operation == "tuple" and path:
            name, path = instruction.operands[int(path[0])], path[1:]
            continue
        elif instruction.operation not in ("bitcast", "opt-barrier"):
            return (name, *path)
        name = instruction.operands[0]


def _reads(body: Computation) -> list[int]:
    """Bytes that a fusion reads of each operand: of what is only sliced, the slices."""
    reads = {}
    for parameter in body:
        if parameter.operation != "parameter":
            continue
        number = int(parameter.attribute(r"^(\d+)") or 0)
        users = list(_users(body, parameter.name))
        first = all(user.operands[0] in names for names, user in users)
        operations = {user.operation for _, user in users}
        if users and first and operations <= set(_SLICES):
            reads[number] = sum(user.nbytes for _, user in users)
        elif users and first and operations == {"dynamic-update-slice"}:
            reads[number] = 0  # Written in place.
        else:
            reads[number] = parameter.nbytes
    return [reads[number] for number in sorted(reads)]


def _users(body: Computation, name: str) -> Iterator[tuple[set[str], Instruction]]:
    """Who uses a value, under which names: a bitcast is another name."""
    for user in body.users(name):
        if user.operation == "bitcast":
            yield from _users(body, user.name)
        else:
            yield {name}, user


def _written(body: Computation) -> int:
    root = body.root
    results = body.operands(root) if root.operation == "tuple" else [root]
    total = 0
    for result in results:
        while result.operation == "bitcast":
            (result,) = body.operands(result)
        if result.operation == "dynamic-update-slice":
            result = body.operands(result)[1]
        total += result.nbytes
    return total


def _of_product(where: Computation, instruction: Instruction) -> tuple[int, str, str]:
    left, right = (operand.arrays[0] for operand in where.operands(instruction)[:2])
    (out,) = instruction.arrays[:1]
    if instruction.operation == "dot":
        dims = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
        inner = math.prod(left.dims[int(i)] for i in dims.split(",") if i)
        return 2 * out.size * inner, left.dtype, "products"
    flops = _convolution(instruction, left, right, out)
    window = instruction.attribute(r"window=\{size=([\dx]+)") or "1"
    # A TPU's compiler writes its products as convolutions of one place.
    is_product = all(size == "1" for size in window.split("x"))
    return flops, left.dtype, "products" if is_product else "convolutions"


def _convolution(
    instruction: Instruction, image: Array, kernel: Array, out: Array
) -> int:
    """Twice the pairs of a place of `image` and one of `kernel` that meet in `out`:
    padding and what dilation puts in between are not counted."""
    labels = instruction.attribute(r"dim_labels=([^\s,]+)") or ""
    of_image, of_kernel, of_out = re.split("_|->", labels)
    places = [label for label in of_image if label.isdigit()]
    window = _window(instruction, len(places))
    pairs = 1
    for index, label in enumerate(places):
        pairs *= _meetings(
            image.dims[of_image.index(label)],
            kernel.dims[of_kernel.index(label)],
            out.dims[of_out.index(label)],
            {key: values[index] for key, values in window.items()},
        )
    batch = out.dims[of_out.index("b")]
    features = out.dims[of_out.index("f")]
    return 2 * batch * features * kernel.dims[of_kernel.index("i")] * pairs


def _window(instruction: Instruction, count: int) -> dict[str, list[str]]:
    text = instruction.attribute(r"window=\{([^}]*)\}") or ""
    given = dict(item.split("=", 1) for item in text.split())
    plain = {"stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
    return {
        key: given[key].split("x") if key in given else [default] * count
        for key, default in plain.items()
    }


def _meetings(image: int, kernel: int, out: int, window: dict[str, str]) -> int:
    stride, spread = int(window["stride"]), int(window["lhs_dilate"])
    apart = int(window["rhs_dilate"])
    before = int(window["pad"].split("_")[0])
    count = 0
    for k in range(kernel):
        # Of the places i of the result: 0 <= i * stride + shift < extent, on the grid.
        shift, extent = k * apart - before, (image - 1) * spread + 1
        first = max(0, -(shift // stride))
        last = min(out - 1, (extent - 1 - shift) // stride)
        if spread == 1:
            count += max(0, last - first + 1)
        else:
            places = range(first, last + 1)
            count += sum((i * stride + shift) % spread == 0 for i in places)
    return count


def _of_call(instruction: Instruction, operands: list[Instruction]) -> Work:
    target = instruction.attribute(r'custom_call_target="([^"]+)"') or ""
    arrays = [operand.arrays[0] for operand in operands]
    for name, count in _CALLS.items():
        if name in target:
            return count(instruction, arrays)
    moved = sum(a.nbytes for a in arrays) + instruction.nbytes
    if target in _NO_CALLS:
        return Work("copies", 0, "f32", 0)
    return Work(f"call of {target}", 0, "f32", moved, is_opaque=True)


def _matmul(instruction: Instruction, arrays: list[Array]) -> Work:
    text = instruction.attribute(r"backend_config=(\{.*\})\s*$") or "{}"
    config = json.loads(text)["gemm_backend_config"]
    dims = config["dot_dimension_numbers"]["lhs_contracting_dimensions"]
    out = instruction.arrays[0]
    flops = 2 * out.size * math.prod(arrays[0].dims[int(i)] for i in dims)
    moved = out.nbytes + sum(array.nbytes for array in arrays)
    return Work("products", flops, arrays[0].dtype, moved)


def _cudnn_convolution(instruction: Instruction, arrays: list[Array]) -> Work:
    out = instruction.arrays[0]
    target = instruction.attribute(r'custom_call_target="([^"]+)"') or ""
    image, kernel, result = arrays[0], arrays[1], out
    if "BackwardInput" in target:
        image, result = out, arrays[0]
    if "BackwardFilter" in target:
        kernel, result = out, arrays[1]
    flops = _convolution(instruction, image, kernel, result)
    moved = out.nbytes + sum(array.nbytes for array in arrays)
    return Work("convolutions", flops, image.dtype, moved)


def _attention(products: int) -> Callable[[Instruction, list[Array]], Work]:
    """cuDNN's: queries, keys and values are [batch, length, heads, features]."""

    def count(instruction: Instruction, arrays: list[Array]) -> Work:
        queries, keys = arrays[:2]
        flops = 2 * products * queries.size * keys.dims[1]
        # Without its workspace, an array of bytes.
        moved = sum(a.nbytes for a in instruction.arrays if a.dtype != "u8")
        moved += sum(array.nbytes for array in arrays)
        return Work("attention", flops, queries.dtype, moved)

    return count


def _mosaic(instruction: Instruction, arrays: list[Array]) -> Work:
    """A Pallas kernel for TPUs, by the products of the reference that it replaces: what
    it computes again is its own affair."""
    moved = instruction.nbytes + sum(array.nbytes for array in arrays)
    name = f"{instruction.name} {instruction.source}"
    for part, products in _ATTENTION.items():
        if part in name:
            # [batch, heads, length, features], or the last two turned, after what says
            # which blocks to visit. The result is not turned.
            queries, keys = [array for array in arrays if len(array.dims) == 4][:2]
            results = [array for array in instruction.arrays if len(array.dims) == 4]
            pairs = keys.size // math.prod(keys.dims[:2]) // results[0].dims[3]
            flops = 2 * products * queries.size * pairs
            return Work("attention", flops, queries.dtype, moved)
    return Work("call of tpu_custom_call", 0, "f32", moved, is_opaque=True)


# Products of the size of queries and keys: the gradient's five are in two kernels. The
# second line is of JAX's older kernel.
_ATTENTION = {"splash_mha_fwd": 2, "splash_mha_dq": 2, "splash_mha_dkv": 3}
_ATTENTION |= {"flash_mha_bwd_dq": 2, "flash_mha_bwd_dkv": 3, "flash_attention": 2}
_CALLS = {
    "tpu_custom_call": _mosaic,
    "__cudnn$fmhaSoftmaxBackward": _attention(5),
    "__cudnn$fmha": _attention(2),
    "__cudnn$conv": _cudnn_convolution,
    "__cublas$": _matmul,
}
