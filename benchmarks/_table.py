"""The figures of `against_pytorch.py`: a row for each variant, and what they say."""

import math

import numpy as np
from _cases import Case, Setting
from _measure import PEAKS
from _pytorch_flops import model_flops
from _timing import Variant


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
                row |= {
                    name: flops / middle / peak for name, peak in PEAKS["H200"].items()
                }
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


def beyond_sampling(rows: list[dict], steps: int) -> dict[str, float]:
    """What draftx's best gradient takes beyond its best sampling, in the time of one
    sampling step."""
    best: dict[str, float] = {}
    for row in rows:
        if row["framework"] == "draftx" and "seconds" in row:
            case = row["case"]
            best[case] = min(best.get(case, math.inf), row["seconds"])
    if "sample" not in best:
        return {}
    sampling = best.pop("sample")
    return {case: (s - sampling) / (sampling / steps) for case, s in best.items()}
