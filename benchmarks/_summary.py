"""The files of a session: all figures as JSON, and what matters of them as Markdown."""

import json
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

from _session import Progress


# Milliseconds of one evaluation at batch 4 with guidance, on an H200 at 790 TFLOP/s and
# 4.3 TB/s: what nothing can be faster than.
_ROOFLINES_MS: dict[str, dict[str, float]] = {
    "forward": {
        "convolution": 4.06,
        "matrix product": 2.83,
        "attention": 2.08,
        "norms, elementwise": 1.28,
        "total": 10.29,
    },
    "forward and backward": {"total": 24.45},
    "decode": {"total": 15.5},
    "decode and backward": {"total": 32.8},
}


def write_summary(
    folder: pathlib.Path, progress: Progress, *, small: bool
) -> list[pathlib.Path]:
    """Writes `<device>-<date>.json` and `.md`; returns their paths."""
    about = _result(progress, "environment")
    name = re.sub(r"[^a-z0-9]+", "-", about.get("device", "unknown").lower())
    stem = folder / f"{name}-{progress.began}{'-small' if small else ''}"
    record = {"began": progress.began, "small": small, "stages": progress.stages}
    json_path, md_path = stem.with_suffix(".json"), stem.with_suffix(".md")
    json_path.write_text(json.dumps(record, indent=1) + "\n")
    md_path.write_text(summarize(progress, small=small))
    return [json_path, md_path]


def summarize(progress: Progress, *, small: bool) -> str:
    """The Markdown text."""
    about = _result(progress, "environment")
    parts = [f"# {about.get('device', 'unknown device')}, {progress.began}"]
    if small:
        parts.append("A rehearsal with tiny sizes: the figures mean nothing.")
    keys = ("jax", "draftx", "python", "memory_gib", "cpu_cores", "xla_flags")
    keys += ("matmul_tflop_per_s", "copy_tb_per_s")
    parts.append(", ".join(f"{k} {_cell(about[k])}" for k in keys if k in about))
    sections = (_checks, _headlines, _pytorch, _memory, _kernels, _paper, _kinds)
    for section in (*sections, _flags):
        text = section(progress)
        if text:
            parts.append(text)
    undone = [
        f"- {name}: {entry['status']}"
        + (f", {entry['note']}" if "note" in entry else "")
        + (f", {entry['last_lines'][-1][:200]}" if entry.get("last_lines") else "")
        for name, entry in progress.stages.items()
        if entry["status"] != "done"
    ]
    if undone:
        parts.append("## Not done\n\n" + "\n".join(undone))
    return "\n\n".join(parts) + "\n"


def _checks(progress: Progress) -> str:
    rows = []
    names = ("kernels", "attention", "bfloat16 gradient", "fused calls", "tests")
    for name in names:
        result = _result(progress, name)
        if not result:
            continue
        detail = ", ".join(
            f"{key} {_cell(value)}"
            for key, value in result.items()
            if key not in ("passed", "rows") and value not in ([], {})
        )
        if "rows" in result:
            figures = ("out", "dq", "dk", "dv", "d_x")
            worst = max(max(r.get(x, 0) for x in figures) for r in result["rows"])
            of = sorted({r[_of(r)] for r in result["rows"]})
            detail = f"{', '.join(of)}: largest relative error {worst:.1e}"
        rows.append([name, _verdict(result), detail])
    return _table("Is it right?", ["check", "passed", "figures"], rows)


def _of(row: dict[str, Any]) -> str:
    return "implementation" if "implementation" in row else "kernel"


def _headlines(progress: Progress) -> str:
    columns: dict[str, Callable[[Any], str]] = {
        "case": str,
        "remat": str,
        "seconds": _cell,
        "seconds_p10": _cell,
        "seconds_p90": _cell,
        "plan_s": _cell,
        "bar_s": _cell,
        "images_per_s": _cell,
        "model_tflop_per_s": _cell,
        "mfu_989": _percent,
        "mfu_790": _percent,
        "plan_temp_mib": _cell,
        "temp_mib": _cell,
        "peak_mib": _cell,
        "device_peak_mib": _cell,
        "compile_s": _cell,
        "cache_hits": _cell,
        "error": str,
    }
    rows = list(_all(progress, "headline "))
    title = "Seconds for a batch, and the bars"
    return _rows_table(title, rows, columns, verdicts=True)


def _memory(progress: Progress) -> str:
    parts = []
    for name in ("memory, low", "memory, fast"):
        keys = ("k", "remat", "beyond_weights_mib", "peak_mib", "device_peak_mib")
        keys += ("device_beyond_inputs_mib", "seconds", "compile_s", "error")
        rows = _result(progress, name).get("rows", [])
        parts.append(_rows_table(f"MiB by K: {name}", rows, dict.fromkeys(keys, _cell)))
    return "\n\n".join(filter(None, parts))


def _kernels(progress: Progress) -> str:
    parts = []
    for name in progress.stages:
        if name.startswith("kernel "):
            keys = ("case", "variant", "forward_ms", "vjp_ms", "residual_mib")
            columns: dict[str, Any] = dict.fromkeys(keys, _cell)
            columns |= {"forward_roofline": _percent, "vjp_roofline": _percent}
            rows = _result(progress, name).get("rows", [])
            parts.append(_rows_table(name.capitalize(), rows, columns))
    return "\n\n".join(filter(None, parts))


def _pytorch(progress: Progress) -> str:
    rows = []
    for result in _all(progress, "PyTorch "):
        for case, ratios in result.get("ratios", {}).items():
            agree = all(r["passed"] for r in result["agreement"] if r["case"] == case)
            rows.append({"case": case, "agree": "yes" if agree else "NO"} | ratios)
    keys = ("case", "agree", "best", "default", "over eager", "draftx", "PyTorch")
    title = "PyTorch's best time divided by draftx's"
    return _rows_table(title, rows, dict.fromkeys(keys, _cell))


def _paper(progress: Progress) -> str:
    verdict = _result(progress, "paper, at scale").get("verdict")
    return f"## The paper's methods, at scale\n\n{verdict}" if verdict else ""


def _kinds(progress: Progress) -> str:
    rows = []
    for result in _all(progress, "time by kind"):
        for part, figures in result.items():
            floor = _ROOFLINES_MS.get(part, {})
            rows += [
                [part, kind, _cell(ms), _cell(floor.get(kind))]
                for kind, ms in figures["kinds_ms"].items()
            ]
            rows.append([part, "by the clock", _cell(figures["wall_ms"]), ""])
    header = ["evaluation", "kind of kernel", "ms", "roofline, ms (batch 4, H200)"]
    return _table("Where the time goes", header, rows)


def _flags(progress: Progress) -> str:
    keys = ("flag", "forward_s", "gradient_s", "forward_compile_s")
    keys += ("gradient_compile_s", "gradient_temp_mib")
    rows = [r | {"flag": r["flag"] or "none"} for r in _all(progress, "flags ")]
    return _rows_table("Flags of XLA", rows, dict.fromkeys(keys, _cell))


def _result(progress: Progress, name: str) -> dict[str, Any]:
    return progress.stages.get(name, {}).get("result", {})


def _all(progress: Progress, prefix: str) -> Iterable[dict[str, Any]]:
    for name, entry in progress.stages.items():
        result = entry.get("result", {})
        if name.startswith(prefix) and result and "unavailable" not in result:
            yield result


def _verdict(row: dict[str, Any]) -> str:
    return {True: "yes", False: "NO", None: ""}[row.get("passed")]


def _rows_table(title, rows, columns, verdicts: bool = False) -> str:
    columns = {k: f for k, f in columns.items() if any(k in row for row in rows)}
    header = [key.replace("_", " ") for key in columns]
    body = [
        ["" if row.get(k) is None else form(row[k]) for k, form in columns.items()]
        for row in rows
    ]
    if verdicts:
        header.append("passed")
        body = [[*cells, _verdict(row)] for cells, row in zip(body, rows, strict=True)]
    return _table(title, header, body)


def _table(title: str, header: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    cells = lambda line: " | ".join(cell.replace("|", "/") for cell in line)
    return f"## {title}\n\n" + "\n".join(f"| {cells(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _percent(value: float) -> str:
    return f"{value:.1%}"
