"""Reads the text of an optimised XLA program: computations, and their instructions."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple


_BITS = {"pred": 8, "token": 0}
# With a TPU's layout, that may say that it lies in the fast memory beside the cores.
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_FAST = re.compile(r"S\(\d\)")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^  (?:ROOT )?%?([\w.\-]+) = ")
_OPERATION = re.compile(r"\s*([\w\-]+)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Array(NamedTuple):
    """One array of a shape.

    **Arguments:**

    - `dtype`: As XLA writes it: `"bf16"`.
    - `dims`: Its sizes.
    - `is_near`: Whether it lies in a core's own memory, which costs no bandwidth.
    """

    dtype: str
    dims: tuple[int, ...]
    is_near: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        if self.is_near:
            return 0
        bits = _BITS.get(self.dtype)
        if bits is None:
            bits = int(re.findall(r"\d+", self.dtype)[0])
        return -(-self.size * bits // 8)


class Instruction(NamedTuple):
    """One line of a computation.

    **Arguments:**

    - `name`, `operation`: `"fusion.3"`, `"fusion"`.
    - `arrays`: Those of its result; several for a tuple.
    - `operands`: Names of instructions of the same computation.
    - `text`: Its attributes; of a constant its value first, of a parameter its number.
    - `is_root`: Whether it is the computation's result.
    """

    name: str
    operation: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    text: str
    is_root: bool

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls."""
        names = _CALLED.findall(self.text)
        for branches in _BRANCHES.findall(self.text):
            names += _OPERAND.findall(branches)
        return tuple(names)

    def attribute(self, pattern: str) -> str | None:
        match = re.search(pattern, self.text)
        return None if match is None else match[1]

    @property
    def source(self) -> str:
        """The name that JAX gave what it was compiled from."""
        return self.attribute(r'op_name="([^"]*)"') or ""


class Computation(NamedTuple):
    """Instructions by their names.

    **Arguments:**

    - `name`: Its own.
    - `instructions`: In the order of the text, which is that of the schedule.
    """

    name: str
    instructions: dict[str, Instruction]

    def __iter__(self) -> Iterator[Instruction]:  # pyright: ignore
        return iter(self.instructions.values())

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """The instructions whose results it takes."""
        return [self.instructions[name] for name in instruction.operands]

    @property
    def root(self) -> Instruction:
        return next(i for i in self if i.is_root)

    def users(self, name: str) -> list[Instruction]:
        return [i for i in self if name in i.operands]


class Module(NamedTuple):
    """A whole program.

    **Arguments:**

    - `computations`: By their names.
    - `entry`: The name of the one that is called first.
    """

    computations: dict[str, Computation]
    entry: str

    def inside(self, instruction: Instruction) -> Iterator[Computation]:
        """All computations that it calls, and those that they call."""
        for name in instruction.called:
            yield from self.within(self.computations[name])

    def within(self, computation: Computation) -> Iterator[Computation]:
        """A computation, and all that it calls."""
        yield computation
        for inner in computation:
            yield from self.inside(inner)


def parse_hlo(text: str) -> Module:
    """Reads what `compiled.as_text()` gave."""
    computations: dict[str, Computation] = {}
    entry = ""
    current: dict[str, Instruction] = {}
    for line in text.splitlines():
        if not line.startswith(" "):
            head = _HEAD.match(line)
            if head is not None:
                current = {}
                computations[head[1]] = Computation(head[1], current)
                entry = head[1] if line.startswith("ENTRY") else entry
            continue
        instruction = _parse_line(line)
        if instruction is not None:
            current[instruction.name] = instruction
    if not entry:
        raise ValueError(
            "The text must be an XLA program with an `ENTRY`; it has none."
        )
    return Module(computations, entry)


def _parse_line(line: str) -> Instruction | None:
    name = _NAME.match(line)
    if name is None:
        return None
    end = _end_of_type(line, name.end())
    operation = _OPERATION.match(line, end)
    if operation is None:
        return None
    closing = _closing(line, operation.end() - 1)
    arguments = line[operation.end() : closing]
    arrays = [
        Array(
            dtype,
            tuple(int(n) for n in dims.split(",") if n),
            _FAST.search(layout) is not None,
        )
        for dtype, dims, layout in _SHAPE.findall(line[name.end() : end])
    ]
    text = line[closing + 1 :]
    plain = operation[1] in ("constant", "parameter")
    operands = () if plain else tuple(_OPERAND.findall(arguments))
    if plain:
        text = arguments + text
    is_root = line.startswith("  ROOT ")
    return Instruction(name[1], operation[1], tuple(arrays), operands, text, is_root)


def _end_of_type(line: str, start: int) -> int:
    if line[start] == "(":
        return _closing(line, start) + 1
    return line.index(" ", start)


def _closing(line: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(line, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"A parenthesis must close; got {line[:200]!r}.")
