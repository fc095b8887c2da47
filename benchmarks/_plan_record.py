"""The plans that are kept, `results/compiled_plans.json`: one of each program."""

import json
import pathlib
from typing import Any

import filelock


RECORD = pathlib.Path(__file__).with_name("results") / "compiled_plans.json"
# What a plan is of: these name it.
KEY = ("target", "model", "what", "method", "k", "remat", "images_at_once")
KEY += ("num_inference_steps", "batch", "dtype", "rank", "topology", "flags")


def read() -> list[dict[str, Any]]:
    """All of them."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else []


def find(row: dict[str, Any]) -> dict[str, Any] | None:
    """The one of the same program as `row`, if it is there."""
    return next((old for old in read() if _is_same(old, row)), None)


def keep(row: dict[str, Any]) -> None:
    """Replaces the plan of the same program, or adds one; never leaves half a file."""
    RECORD.parent.mkdir(exist_ok=True)
    # Two programs may be compiled at once: neither loses the other's plan.
    with filelock.FileLock(RECORD.with_suffix(".lock")):
        rows = [old for old in read() if not _is_same(old, row)]
        rows.append({key: value for key, value in row.items() if key != "largest"})
        rows.sort(key=lambda r: tuple(str(r.get(name)) for name in KEY))
        new = RECORD.with_suffix(".new")
        new.write_text(json.dumps(_rounded(rows), indent=1) + "\n")
        new.replace(RECORD)


def beside(device_kind: str, **key: Any) -> dict[str, float]:
    """What the plan of a program says, to stand beside what was measured.

    **Arguments:**

    - `device_kind`: What JAX calls the device: "NVIDIA H200".
    - `key`: Of the plan; what is left out is as Stable Diffusion's usual one.

    **Returns:**

    Seconds and MiB of temporaries; nothing if there is no such plan.
    """
    usual = dict(model="sd14-shape", images_at_once=None, num_inference_steps=50)
    usual |= dict(batch=4, dtype="bfloat16", rank=8, topology=None, flags=[])
    names = {row["target"] for row in read() if row["target"] in device_kind.lower()}
    for name in names:
        found = find(usual | {"target": name} | key)
        if found is not None:
            temporaries = found["memory_mib"]["temporaries"]
            return {"plan_s": found["seconds"], "plan_temp_mib": temporaries}
    return {}


def _is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in KEY)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
