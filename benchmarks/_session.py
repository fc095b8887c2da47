"""The stages of a visit to a GPU, and the file that knows which are done.

Nothing here imports JAX: the process that drives the stages must not hold the device.
"""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any


ROOT = pathlib.Path(__file__).resolve().parent.parent
# Seconds that the driver keeps for itself, to write its files.
_RESERVE = 5.0


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of a visit, run as a process of its own.

    - `name`: In the progress file.
    - `function`: `module:function` of this folder, called with `context` and `options`.
    - `options`: Its keyword arguments.
    - `seconds`: After so long it is ended; what it had saved is kept.
    - `needs`: It is not begun with less time left.
    - `xla_flags`: For its process.
    - `rehearsed`: Whether `--small` runs it; not if it would repeat another's code.
    """

    name: str
    function: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 240.0
    needs: float = 60.0
    xla_flags: str = ""
    rehearsed: bool = True


def _headline(case, bar, *, rehearsed=True, **options) -> Stage:
    name = "-".join([case, *map(str, options.values())])
    return Stage(
        f"headline {name}",
        "_headline:headline",
        dict(case=case, bar=bar, **options),
        seconds=300,
        needs=90,
        rehearsed=rehearsed,
    )


# The flags of XLA worth a comparison; the first is none at all. What the library sets
# itself is among them, set back.
_FLAGS = (
    "",
    "--xla_gpu_enable_triton_gemm=true",
    "--xla_gpu_dot_merger_threshold_mb=32",
    "--xla_gpu_enable_command_buffer=+CONVOLUTION",
    "--xla_gpu_experimental_enable_conv_fusion=true",
    "--xla_gpu_cudnn_gemm_fusion_level=1",
    "--xla_gpu_enable_cudnn_layer_norm=true",
    "--xla_gpu_exhaustive_tiling_search=true",
)
_KERNELS = ("attention", "group_norm", "geglu", "layer_norm", "lora_matmul")


def _pytorch(case: str) -> Stage:
    return Stage(
        f"PyTorch {case}",
        "_headline:against_pytorch",
        dict(case=case),
        seconds=300,
        needs=120,
        rehearsed=case == "draft-1",
    )


# What has never been seen comes first. The bars are seconds at batch 4, 50 steps,
# guidance, 512x512, bfloat16.
STAGES: tuple[Stage, ...] = (
    Stage("environment", "_checks:environment", seconds=60, needs=15),
    Stage("kernels", "_checks:kernels", seconds=60, needs=20),
    Stage("attention", "_checks:attention", seconds=90, needs=30),
    _headline("sampling", 0.80),
    _headline("draft-1", 0.88, remat="step"),
    _pytorch("draft-1"),
    _headline("draft-lv", 1.00, remat="step"),
    _pytorch("draft-lv"),
    _headline("draft-50", 2.4, remat="step", rehearsed=False),
    _pytorch("draft"),
    Stage("memory, low", "_headline:memory", dict(low=True), 300, 100),
    Stage("bfloat16 gradient", "_checks:bfloat16_gradient", seconds=300, needs=120),
    Stage("fused calls", "_checks:fused_calls", seconds=180, needs=60),
    Stage("tests", "_checks:tests", seconds=300, needs=60),
    *(
        Stage(f"kernel {name}", "_checks:kernel", dict(name=name), 150, 40)
        for name in _KERNELS
    ),
    _headline("draft-1", 0.88, remat="none", rehearsed=False),
    _headline("draft-10", 1.15, remat="none", rehearsed=False),
    _headline("draft-50", 2.4, remat="ff", rehearsed=False),
    _headline("draft-50", 2.4, remat="none", rehearsed=False),
    Stage(
        "memory, fast",
        "_headline:memory",
        dict(low=False),
        seconds=400,
        needs=100,
        rehearsed=False,
    ),
    _pytorch("sample"),
    _pytorch("draft-10"),
    Stage("paper, at scale", "_headline:paper", seconds=1200, needs=240),
    *(
        # Without graphs of kernels: the profiler then knows each one's operation.
        Stage(
            f"time by kind: {name}",
            f"_profile:{name}",
            seconds=200,
            needs=60,
            xla_flags="--xla_gpu_enable_command_buffer=",
        )
        for name in ("unet", "decoder")
    ),
    *(
        Stage(
            f"flags {flag or 'none'}",
            "_headline:flags",
            dict(flag=flag),
            seconds=150,
            needs=50,
            xla_flags=flag,
            rehearsed=not flag,
        )
        for flag in _FLAGS
    ),
)


class Progress:
    """What has been done, in a file that is whole at any time."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.stages: dict[str, dict[str, Any]] = {}
        self.began = time.strftime("%Y-%m-%d")
        if path.exists():
            record = json.loads(path.read_text())
            self.stages, self.began = record["stages"], record["began"]

    def set(self, name: str, **entry: Any) -> None:
        self.stages[name] = entry
        text = json.dumps({"began": self.began, "stages": self.stages}, indent=1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(text + "\n")
        os.replace(part, self.path)

    def status(self, name: str) -> str:
        return self.stages.get(name, {}).get("status", "not begun")

    def to_do(self, stages: tuple[Stage, ...]) -> list[Stage]:
        """What is not done, in order; what was begun and not ended well comes last."""
        left = [s for s in stages if self.status(s.name) not in ("done", "unavailable")]
        return sorted(left, key=lambda s: self.status(s.name) in _UNWELL)


_UNWELL = ("failed", "out of time", "running")


def run_stage(
    stage: Stage, progress: Progress, *, small: bool, work: pathlib.Path, left: float
) -> None:
    """Runs one stage in a process of its own, or notes that there is no time for it."""
    needs = stage.needs / 4 if small else stage.needs
    if left < needs + _RESERVE:
        note = f"{max(left, 0):.0f} s were left, and it needs {needs:.0f}"
        progress.set(stage.name, status="skipped", note=note)
        return
    seconds = min(stage.seconds, left - _RESERVE)
    result, log = work / "result.json", work / "logs" / f"{stage.name}.txt"
    log = log.with_name(log.name.replace("/", "-").replace(" ", "-"))
    log.parent.mkdir(parents=True, exist_ok=True)
    result.unlink(missing_ok=True)
    progress.set(stage.name, status="running")
    start = time.perf_counter()
    with open(log, "w") as out:
        process = subprocess.Popen(
            _command(stage, small, work),
            stdout=out,
            stderr=subprocess.STDOUT,
            env=_environment(stage, small),
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            status = "done" if process.wait(seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "out of time"
        finally:
            _end(process)
    entry: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 1)}
    if result.exists():
        entry["result"] = json.loads(result.read_text())
    if entry.get("result", {}).get("unavailable"):
        status = "unavailable"
    if status != "done":
        lines = log.read_text(errors="replace").strip().splitlines()
        entry["last_lines"] = lines[-4:]
    progress.set(stage.name, status=status, **entry)


def _command(stage: Stage, small: bool, work: pathlib.Path) -> list[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_session.py")]
    command += ["--stage", stage.name, "--work", str(work)]
    return command + (["--small"] if small else [])


def _environment(stage: Stage, small: bool) -> dict[str, str]:
    environment = dict(os.environ)
    path = [str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    flags = [environment.get("XLA_FLAGS", ""), stage.xla_flags]
    if small:
        environment["JAX_PLATFORMS"] = "cpu"
        # Programs that run once or twice: optimizing them takes longer.
        flags = [flags[0], "--xla_backend_optimization_level=0"]
        flags += ["--xla_llvm_disable_expensive_passes=true"]
    environment["XLA_FLAGS"] = " ".join(filter(None, flags))
    return environment


def _end(process: subprocess.Popen) -> None:
    """Ends a stage and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
