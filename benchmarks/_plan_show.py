"""Prints what `compiled_plan.py` read, and how two such plans differ."""

from typing import Any

from _targets import Target


def show(row: dict[str, Any], target: Target) -> None:
    """Prints one plan."""
    print(f"\n{title(row)}")
    memory = row["memory_mib"]
    print(
        "  memory, MiB: "
        + ", ".join(f"{name} {size:,.0f}" for name, size in memory.items())
        + f"; compiled in {row['compile_s']:.0f} s; kernels of a call: "
        f"{row['launches']:,}"
    )
    if row["collectives"]:
        print(f"  collectives: {row['collectives']}")
    print(
        f"  {'':24}{'times':>6}{'ms':>10}{'floor':>9}{'share':>7}{'kernels':>9}", end=""
    )
    print(f"{'GiB':>9}{'TFLOP':>9}")
    for part in row["parts"]:
        _line(part["part"], part)
        for kind, figures in part["kinds"].items():
            _line(f"  {kind}", figures)
    print(
        f"  estimate of a call: {row['seconds']:.3f} s; its products and attention at "
        f"{target.name}'s peak: {row['floor_s']:.3f} s, {row['share']:.0%} of it"
    )
    if row["opaque"]:
        print(f"  calls of which only the bytes are known: {', '.join(row['opaque'])}")
    for kernel in row.get("largest", []):
        print(
            f"  {kernel['ms']:9.3f} ms {kernel['kernels']:5d} x "
            f"{kernel['mib']:9.1f} MiB {kernel['gflop']:9.1f} GFLOP  "
            f"{kernel['kind']}, {kernel['part']}: {kernel['source']}"
        )


def compare(old: dict[str, Any] | None, new: dict[str, Any]) -> None:
    """Prints what changed from a recorded plan to a new one."""
    if old is None:
        print("  the record has no plan of this program")
        return
    print("  against the record:")
    for name in ("seconds", "floor_s", "launches", "compile_s"):
        _difference(name, old[name], new[name])
    for name, size in new["memory_mib"].items():
        _difference(f"{name}, MiB", old["memory_mib"][name], size)
    before = {part["part"]: part for part in old["parts"]}
    for part in new["parts"]:
        if part["part"] not in before:
            print(f"    {part['part']}: new")
            continue
        was = before[part["part"]]
        _difference(f"{part['part']}, ms", was["ms"], part["ms"])
        _difference(f"{part['part']}, kernels", was["kernels"], part["kernels"])
        for kind in sorted({*was["kinds"], *part["kinds"]}):
            one, other = (p["kinds"].get(kind, {}).get("ms", 0.0) for p in (was, part))
            if abs(one - other) > 0.01 * max(was["ms"], 1e-9):
                _difference(f"  {kind}, ms", one, other)


def title(row: dict[str, Any]) -> str:
    """What a plan is of, in a line."""
    words = [row["target"], row["model"], row["what"]]
    if row["what"] == "gradient":
        words += [row["method"]] + ([f"K={row['k']}"] if row["k"] else [])
        words += [f"remat={row['remat']}"]
    if row["images_at_once"]:
        words += [f"images_at_once={row['images_at_once']}"]
    words += [f"T={row['num_inference_steps']}", f"batch={row['batch']}", row["dtype"]]
    words += [row["topology"]] if row["topology"] else []
    return ", ".join(map(str, words + list(row["flags"])))


def _line(name: str, figures: dict[str, Any]) -> None:
    times = f"{figures['times']:>6}" if "times" in figures else " " * 6
    floor, share = " " * 9, " " * 7
    if "floor_ms" in figures:
        floor = f"{figures['floor_ms']:>9.2f}"
        share = f"{figures['floor_ms'] / max(figures['ms'], 1e-9):>7.0%}"
    print(
        f"  {name:24}{times}{figures['ms']:>10.2f}{floor}{share}"
        f"{figures['kernels']:>9,}{figures['gib']:>9.2f}{figures['tflop']:>9.2f}"
    )


def _difference(name: str, old: float, new: float) -> None:
    change = "" if old == 0 else f"{new / old - 1:+.1%}"
    print(f"    {name:36}{old:>12,.4g} -> {new:>10,.4g}  {change}")
