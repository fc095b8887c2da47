"""What is computed; whether several programs compute the same; how fast each does."""

import dataclasses
import gc
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention


MIB = 2**20
# Relative error of latents and rewards, and cosine of the gradient, to float32 PyTorch.
LIMITS = {"float32": (1e-4, 0.9999), "bfloat16": (2e-2, 0.99)}
# Dense bfloat16 of an H200: the data sheet's, and what it sustains at its power limit.
PEAKS = {"mfu_989": 989.5e12, "mfu_790": 790e12}
# Layers that no gradient passes: of the time embedding, and keys and values of text.
_NO_BACKWARD = ("time_emb", "attn2.to_k", "attn2.to_v")


@dataclasses.dataclass(frozen=True)
class Case:
    """What is computed: `k` differentiated steps (0 samples), `draws` more of the last
    step (DRaFT-LV)."""

    name: str
    k: int
    draws: int = 0


@dataclasses.dataclass(frozen=True)
class Setting:
    """Networks as diffusers' configs, and the chain. Without `vae` the reward is of the
    latents."""

    unet: dict[str, Any]
    vae: dict[str, Any] | None
    text: dict[str, Any]
    steps: int
    guidance: float
    batch: int
    rank: int
    dtype: str
    reward: Callable[[Any], Any]
    scheduler: dict[str, Any]

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.unet["sample_size"], self.unet["sample_size"], 4)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Arrays that both sides are given: channels last, float32."""

    latents: np.ndarray
    negative: np.ndarray
    positive: np.ndarray
    noises: np.ndarray


@dataclasses.dataclass
class Variant:
    """A way of computing a case.

    - `call`: Computes, waits for the device, and returns the result.
    - `role`: `"default"`, `"variant"`, or `"apart"`: shown, but never the best.
    - `figures`: What is known beside times: memory, compile seconds.
    """

    framework: str
    name: str
    call: Callable[[], Any]
    role: str = "variant"
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: list[float] = dataclasses.field(default_factory=list)
    cpu_seconds: list[float] = dataclasses.field(default_factory=list)

    def time(self) -> None:
        gc.collect()
        time.sleep(0.02)  # Threads of the other framework that still spin go to sleep.
        cpu, start = time.process_time(), time.perf_counter()
        self.call()
        self.seconds.append(time.perf_counter() - start)
        self.cpu_seconds.append(time.process_time() - cpu)

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


def interleave(variants: list[Variant], repeats: int, keep: float) -> None:
    """Times call by call, JAX and PyTorch in turn, after one more warm-up each.

    After two rounds those slower than `keep` times their framework's best are timed
    no further, defaults excepted.
    """
    order = _alternate(variants)
    for variant in order:
        variant.call()
    for done in range(repeats):
        if done == 2:
            best = {f: best_of(variants, f) for f in {v.framework for v in variants}}
            order = [
                v
                for v in order
                if v.role == "default"
                or (b := best[v.framework]) is None
                or v.median <= keep * b.median
            ]
        for variant in order:
            variant.time()


def _alternate(variants: list[Variant]) -> list[Variant]:
    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        groups.setdefault(variant.framework, []).append(variant)
    longest = max(map(len, groups.values()))
    return [g[i] for i in range(longest) for g in groups.values() if i < len(g)]


def best_of(variants: list[Variant], framework: str) -> Variant | None:
    """The fastest by its median, of those that were timed and are not apart."""
    chosen = [
        v
        for v in variants
        if v.framework == framework and v.role != "apart" and v.seconds
    ]
    return min(chosen, key=lambda v: v.median, default=None)


def model_flops(setting: Setting, case: Case) -> float:
    """Of one step of training: convolutions, linear layers and attention, 2 for each
    multiply-add, nothing recomputed, the adapter left out.

    The backward pass of a frozen layer costs as much as its forward pass, that of
    attention twice as much.
    """
    unet = _forward_flops(UNet2DConditionModel, setting.unet, setting)
    vae = {"forward": 0, "backward": 0}
    if setting.vae is not None:
        vae = _forward_flops(AutoencoderKL, setting.vae, setting)
    decoded = 1 + case.draws
    evaluations = setting.steps + case.draws
    total = 2 * evaluations * unet["forward"] + decoded * vae["forward"]
    if case.k:
        total += 2 * (case.k + case.draws) * unet["backward"]
        total += decoded * vae["backward"]
    return float(setting.batch * total)


def _forward_flops(cls, config: dict, setting: Setting) -> dict[str, int]:
    """Of one UNet evaluation or one decoding, of one image, without running it."""
    flops = {"forward": 0, "backward": 0}

    def add(name, count, backward):
        frozen = any(part in name for part in _NO_BACKWARD)
        flops["forward"] += count
        flops["backward"] += 0 if frozen else backward * count

    def hook(name, module):
        def count(module, args, kwargs, out):
            if isinstance(module, torch.nn.Conv2d):
                add(name, 2 * out.numel() * module.weight[0].numel(), 1)
            elif isinstance(module, torch.nn.Linear):
                add(name, 2 * out.numel() * module.in_features, 1)
            else:
                hidden = args[0] if args else kwargs["hidden_states"]
                text = kwargs.get("encoder_hidden_states")
                flat = hidden if hidden.ndim == 3 else hidden.flatten(2).mT
                keys = (flat if text is None else text).shape[1]
                add(name, 4 * flat.numel() * keys, 2)

        module.register_forward_hook(count, with_kwargs=True)

    size = setting.unet["sample_size"]
    with torch.device("meta"), torch.no_grad():
        model = cls(**config).eval()
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear | Attention):
                hook(name, module)
        latents = torch.zeros(1, 4, size, size)
        if cls is AutoencoderKL:
            model.decode(latents)
        else:
            text = setting.text
            tokens, features = text["max_position_embeddings"], text["hidden_size"]
            model(latents, torch.zeros(()), torch.zeros(1, tokens, features))
    return flops


def rows_of(variants: list[Variant], setting: Setting, case: Case, gpu: bool) -> list:
    """One dictionary of plain figures for each variant."""
    flops, rows = model_flops(setting, case), []
    evaluations = 2 * setting.batch * (setting.steps + case.draws)
    for v in variants:
        row = {"case": case.name, "framework": v.framework, "variant": v.name}
        row["role"] = v.role
        if v.seconds:
            low, middle, high = np.percentile(v.seconds, [10, 50, 90]).tolist()
            row |= {
                "repeats": len(v.seconds),
                "seconds": middle,
                "seconds_p10": low,
                "seconds_p90": high,
                "seconds_min": min(v.seconds),
                "cpu_seconds": float(np.median(v.cpu_seconds)),
                "images_per_s": setting.batch / middle,
                "unet_evaluations_per_s": evaluations / middle,
                "model_tflop": flops / 1e12,
                "gflop_per_s": flops / middle / 1e9,
            }
            if gpu:
                row |= {name: flops / middle / peak for name, peak in PEAKS.items()}
        rows.append(row | v.figures)
    return rows


def print_rows(rows: list[dict], gpu: bool) -> None:
    print(
        f"{'':10} {'variant':34} {'s/step':>8} {'p10':>7} {'p90':>7} {'n':>3} "
        f"{'img/s':>7} {'UNet/s':>7} {'GFLOP/s':>8} "
        + (f"{'MFU 989':>7} {'MFU 790':>7} " if gpu else f"{'CPU s':>7} ")
        + f"{'peak MiB':>9} {'compile':>7}"
    )
    for row in rows:
        mark = {"default": "*", "apart": "("}.get(row["role"], " ")
        line = f"{row['framework']:10}{mark}{row['variant']:34} "
        if "seconds" not in row:
            print(line + str(row.get("note", "")))
            continue
        line += f"{row['seconds']:8.4f} {row['seconds_p10']:7.3f} "
        line += f"{row['seconds_p90']:7.3f} {row['repeats']:3d} "
        line += f"{row['images_per_s']:7.2f} {row['unet_evaluations_per_s']:7.1f} "
        line += f"{row['gflop_per_s']:8.1f} "
        if gpu:
            line += f"{100 * row['mfu_989']:6.1f}% {100 * row['mfu_790']:6.1f}% "
        else:
            line += f"{row['cpu_seconds']:7.3f} "
        peak, seconds = row.get("peak_mib"), row.get("compile_s")
        line += f"{'' if peak is None else f'{peak:.0f}':>9} "
        print(line + f"{'' if seconds is None else f'{seconds:.1f}':>7}", flush=True)


def check(variants: list[Variant], reference, setting, gpu: bool) -> list[dict]:
    """Runs every variant once and compares it; those that do not fit drop out."""
    forward_limit, cosine_limit = LIMITS[setting.dtype]
    rows = []
    for variant in list(variants):
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        try:
            got = to_numpy(variant.call())
        except (jax.errors.JaxRuntimeError, torch.OutOfMemoryError) as error:
            variant.figures["note"] = "failed: " + str(error).strip().split("\n")[0]
            variant.figures["failed"] = True
            if gpu:
                torch.cuda.empty_cache()
            continue
        if variant.framework == "PyTorch":
            if "compile" in variant.name:
                variant.figures["compile_s"] = time.perf_counter() - start
            if gpu:
                variant.figures["peak_mib"] = torch.cuda.max_memory_allocated() / MIB
        elif gpu:  # Of the process so far: it cannot be set back.
            stats = jax.devices()[0].memory_stats() or {}
            variant.figures["device_peak_mib"] = stats["peak_bytes_in_use"] / MIB
        row: dict[str, Any] = dict(framework=variant.framework, variant=variant.name)
        for name in got.keys() - {"gradient"}:
            row[name] = relative_error(got[name], reference[name])
        passed = all(row[name] < forward_limit for name in got.keys() - {"gradient"})
        if "gradient" in got:
            ours, theirs = got["gradient"], reference["gradient"]
            if ours.keys() != theirs.keys() or not all(map(np.any, theirs.values())):
                sys.exit("The adapters' names differ, or a gradient is zero.")
            names = sorted(theirs)
            a, b = (
                np.concatenate([x[name].ravel() for name in names])
                for x in (ours, theirs)
            )
            row["cosine"] = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            row["gradient"] = relative_error(a, b)
            passed = passed and row["cosine"] > cosine_limit
        rows.append(row | {"passed": bool(passed)})
    return rows


def to_numpy(out: dict[str, Any]) -> dict[str, Any]:
    def array(x):
        if isinstance(x, torch.Tensor):
            x = x.float().cpu().numpy()
        return np.asarray(x, np.float64)

    nested = out.get("gradient", {})
    arrays = {name: array(x) for name, x in out.items() if name != "gradient"}
    if not nested:
        return arrays
    return arrays | {"gradient": {name: array(x) for name, x in nested.items()}}


def relative_error(got, wanted) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def print_gate(rows: list[dict]) -> None:
    for row in rows:
        figures = "  ".join(
            f"{name} {row[name]:.7f}" if name == "cosine" else f"{name} {row[name]:.1e}"
            for name in ("latents", "images", "rewards", "gradient", "cosine")
            if name in row
        )
        mark = "  " if row["passed"] else "! "
        print(f"{mark}{row['framework']:8} {row['variant']:34} {figures}")


def ratios(variants: list[Variant]) -> dict[str, Any]:
    theirs, ours = best_of(variants, "PyTorch"), best_of(variants, "draftx")
    if theirs is None or ours is None:
        return {}
    found: dict[str, Any] = {"best": round(theirs.median / ours.median, 3)}
    for v in variants:
        if v.framework == "draftx" and v.role == "default":
            found["default"] = round(theirs.median / v.median, 3)
        if v.framework == "PyTorch" and v.name == "eager":
            found["over eager"] = round(v.median / ours.median, 3)
    if jax.default_backend() == "cpu":
        # Says more than seconds where other programs share the cores.
        least = lambda framework: min(
            min(v.cpu_seconds)
            for v in variants
            if v.framework == framework and v.role != "apart"
        )
        found["CPU time"] = round(least("PyTorch") / least("draftx"), 3)
    return found | {"draftx": f"({ours.name})", "PyTorch": f"({theirs.name})"}
