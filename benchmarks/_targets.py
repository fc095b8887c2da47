"""The devices that `compiled_plan.py` compiles for, none of which need be there."""

import importlib.util
import os
import pathlib
import tomllib
from typing import Any, NamedTuple

from _hlo import Instruction
from _hlo_work import Work


# What a TPU's compiler says of the cycles of a kernel that it cannot estimate.
_UNKNOWN = 2**62
_FOLDER = pathlib.Path(__file__).with_name("targets")
_NEEDS = {
    "cuda": (("jax_cuda13_plugin", "jax_cuda12_plugin"), "cuda13"),
    "tpu": (("libtpu",), "tpu"),
}


class Target(NamedTuple):
    """A device, as `targets/README.md` says.

    **Arguments:**

    - `name`: `"h200"`.
    - `platform`: `"cuda"` or `"tpu"`.
    - `memory_gib`, `bandwidth`, `flops`, `launch`, `serial`, `clock`: Of one device.
    - `compute_capability`: Of a CUDA device.
    - `topology`: One host's, of a TPU.
    - `description`: XLA's, of a CUDA device: the name of a file.
    """

    name: str
    platform: str
    memory_gib: float
    bandwidth: float
    flops: dict[str, float]
    launch: float = 0.0
    serial: float = 0.0
    clock: float = 0.0
    compute_capability: tuple[int, int] | None = None
    topology: str = ""
    description: str = ""

    def floor(self, work: Work) -> float:
        """Seconds that its products take at the peak."""
        return work.flops / self.flops.get(work.dtype, min(self.flops.values()))

    def seconds(self, instruction: Instruction, work: Work) -> float:
        """The estimate of one instruction's time."""
        cycles = instruction.attribute(r'"estimated_cycles":"(\d+)"')
        if cycles is not None and self.clock and int(cycles) < _UNKNOWN:
            return int(cycles) / self.clock
        if work.kind == "prefetches":  # Beside the work of others.
            return 0.0
        moved = work.nbytes / self.bandwidth
        return max(moved, self.floor(work), self.launch, work.serial * self.serial)

    def devices(self, topology: str | None = None) -> list[Any]:
        """Makes devices that programs can be compiled for.

        **Arguments:**

        - `topology`: Another than one host's: `"v5e:2x4"`.
        """
        from jax.experimental import topologies

        if self.platform == "tpu":
            made = topologies.get_topology_desc(topology or self.topology, "tpu")
            return list(made.devices)
        text = (_FOLDER / self.description).read_text()
        made = topologies.get_topology_desc(
            self.name, "cuda", target_config=text, topology=topology or "1x1x1"
        )
        return list(made.devices)


def targets() -> dict[str, Target]:
    """All of them, by name."""
    tables = tomllib.loads((_FOLDER / "targets.toml").read_text())
    made = {}
    for name, table in tables.items():
        if "compute_capability" in table:
            table["compute_capability"] = tuple(table["compute_capability"])
        made[name] = Target(name, **table)
    return made


def prepare(target: Target) -> str | None:
    """Tells JAX, which must not have been imported yet, what will be compiled for; or
    says what is not installed."""
    packages, extra = _NEEDS[target.platform]
    if all(importlib.util.find_spec(package) is None for package in packages):
        return (
            f"--target {target.name} needs the compiler of {target.platform} devices: "
            f"in an environment of its own, pip install -e '.[examples,{extra}]'. "
            "No such device is needed."
        )
    cuda = target.platform == "cuda"
    os.environ["JAX_PLATFORMS"] = "cpu,cuda" if cuda else "cpu"
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Several programs may be planned at a time: nothing runs on a TPU.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    return None
