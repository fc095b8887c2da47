"""Whether two programs computed the same: relative errors, the gradients' cosine."""

import sys
from typing import Any

import numpy as np


# Relative error of latents and rewards, and cosine of the gradient, to float32 PyTorch.
LIMITS = {"float32": (1e-4, 0.9999), "bfloat16": (2e-2, 0.99)}


def compare(
    got: dict[str, Any], reference: dict[str, Any], dtype: str
) -> dict[str, Any]:
    """The errors of latents, images, rewards and gradient, as far as they are there.

    `passed` says whether they keep the limits of `dtype`.
    """
    forward_limit, cosine_limit = LIMITS[dtype]
    forward = got.keys() - {"gradient"}
    row: dict[str, Any] = {
        name: relative_error(got[name], reference[name]) for name in forward
    }
    passed = all(row[name] < forward_limit for name in forward)
    if "gradient" in got:
        ours, theirs = got["gradient"], reference["gradient"]
        if ours.keys() != theirs.keys() or not all(map(np.any, theirs.values())):
            sys.exit("The adapters' names differ, or a gradient is zero.")
        names = sorted(theirs)
        a, b = (
            np.concatenate([x[name].ravel() for name in names]) for x in (ours, theirs)
        )
        row["cosine"] = cosine(a, b)
        row["gradient"] = relative_error(a, b)
        passed = passed and row["cosine"] > cosine_limit
    return row | {"passed": bool(passed)}


def relative_error(got, wanted) -> float:
    """The norm of the difference over that of what is wanted."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def cosine(a, b) -> float:
    """Of the angle between two vectors."""
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def print_gate(rows: list[dict]) -> None:
    """A line for each variant; `!` marks those that differ."""
    for row in rows:
        figures = "  ".join(
            f"{name} {row[name]:.7f}" if name == "cosine" else f"{name} {row[name]:.1e}"
            for name in ("latents", "images", "rewards", "gradient", "cosine")
            if name in row
        )
        mark = "  " if row["passed"] else "! "
        print(f"{mark}{row['framework']:8} {row['variant']:34} {figures}")
