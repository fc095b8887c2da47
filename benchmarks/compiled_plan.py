"""Reads the program that draftx is compiled to for a device that is not there.

python benchmarks/compiled_plan.py --target h200 --what sampling
python benchmarks/compiled_plan.py --target v5e --what gradient --method draft --k 1

XLA compiles for an NVIDIA GPU or a TPU on any machine that has its compiler:

    python -m venv plan-gpu && plan-gpu/bin/pip install -e '.[examples,cuda13]'
    python -m venv plan-tpu && plan-tpu/bin/pip install -e '.[examples,tpu]'

(each in an environment of its own; Linux; 5 GB and 2 GB). What it says of memory is
the program's real plan. What it says of time is an estimate, kernel by kernel: the
longest of bytes over bandwidth, products over the peak, and the smallest kernel's time
(`targets/` has the figures), or a TPU compiler's own `estimated_cycles`. The floor is
the products and attention alone at the peak. Nothing was autotuned and nothing ran:
real kernels are slower, and what is worth having is the split by kind and differences
between two programs. `results/compiled_plans.json` has the plans of this version:
`--suite --compare` shows how those of a changed version differ, `--suite --record`
replaces them.
"""

import argparse
import json
import pathlib
import re
import sys
import time
from typing import Any

from _plan_record import find, keep, KEY, read, RECORD
from _targets import prepare, Target, targets


SUITE = (
    {"what": "sampling"},
    {"what": "gradient", "method": "draft", "k": 1},
    {"what": "gradient", "method": "draft-lv"},
    {"what": "gradient", "method": "draft", "k": 10},
    {"what": "gradient", "method": "draft", "k": 50},
)
_MODELS = ("sd14-shape", "small-shape")
_TIERS = ("none", "ff", "block", "step", "nested")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The options, possible ones; exits with a line if they are not."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # What replaces the record must be asked for by its whole name.
        allow_abbrev=False,
    )
    parser.add_argument("--target", default="h200", help=", ".join(targets()))
    parser.add_argument(
        "--model", default="sd14-shape", choices=_MODELS, help="random weights"
    )
    parser.add_argument("--what", default="gradient", choices=("gradient", "sampling"))
    parser.add_argument("--method", default="draft", choices=("draft", "draft-lv"))
    parser.add_argument("--k", type=int, default=1, help="differentiated steps")
    parser.add_argument(
        "--remat", default="step", choices=_TIERS, help="no auto: a plan is of one tier"
    )
    parser.add_argument("--images-at-once", type=int, help="decoded and rewarded")
    parser.add_argument("--num-inference-steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4, help="of all devices together")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument(
        "--topology", help="many TPUs, such as v5e:2x4: the batch is divided over them"
    )
    parser.add_argument(
        "--flags", nargs="*", default=[], help="XLA's options to try, NAME=VALUE"
    )
    parser.add_argument(
        "--top", type=int, default=0, help="show so many largest kernels"
    )
    parser.add_argument(
        "--hlo", type=pathlib.Path, help="write the program's text there"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, help="write the figures there, JSON"
    )
    parser.add_argument(
        "--suite", action="store_true", help="all programs of the record"
    )
    parser.add_argument("--compare", action="store_true", help="with the record")
    parser.add_argument("--record", action="store_true", help="keep in the record")
    args = parser.parse_args(argv)
    if args.target not in targets():
        parser.error(
            f"--target must be one of {', '.join(targets())}; got {args.target!r}"
        )
    for name in ("k", "num_inference_steps", "batch", "rank", "images_at_once"):
        value = getattr(args, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            parser.error(f"--{option} must be at least 1; got {value}")
    if args.top < 0:
        parser.error(f"--top must be at least 0; got {args.top}")
    if args.method == "draft-lv" and args.k != 1:
        parser.error(
            "--k is of --method draft, draft-lv always differentiates one step; got "
            f"{args.k}"
        )
    if args.k > args.num_inference_steps:
        parser.error(
            f"--k must be at most --num-inference-steps, {args.num_inference_steps}; "
            f"got {args.k}"
        )
    if args.what == "sampling" and args.images_at_once is not None:
        parser.error("--images-at-once is of --what gradient; leave it out")
    if args.suite and args.num_inference_steps < max(c.get("k", 1) for c in SUITE):
        parser.error("--suite has K = 50: it needs --num-inference-steps 50 or more")
    for name in ("hlo", "out"):
        path = getattr(args, name)
        if path is not None and path.is_dir():
            parser.error(f"--{name} must be a file; got the folder {str(path)!r}")
    if args.images_at_once is not None and args.batch % args.images_at_once != 0:
        parser.error(
            f"--images-at-once must divide --batch, {args.batch}; got "
            f"{args.images_at_once}"
        )
    if args.topology is not None and targets()[args.target].platform != "tpu":
        parser.error(f"--topology is of TPUs; got --target {args.target}")
    for flag in args.flags:
        if not re.fullmatch(r"\w+=.+", flag):
            parser.error(f"--flags must be NAME=VALUE; got {flag!r}")
    return args


def plan(args: argparse.Namespace, target: Target) -> dict[str, Any]:
    """Compiles one program and reads it.

    **Returns:**

    What it is of, its memory, seconds of compilation, its parts and their sum.
    """
    from _hlo import parse_hlo
    from _plan import largest, parts_of, totals
    from _plan_programs import compile_for

    begin = time.perf_counter()
    compiled, devices = compile_for(args, target)
    row = {name: getattr(args, name) for name in KEY}
    if args.what == "sampling":
        row |= {"method": None, "k": None, "remat": None}
    if args.method == "draft-lv":
        row["k"] = None
    row["devices"] = devices
    row["compile_s"] = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    row["memory_mib"] = {
        "arguments": memory.argument_size_in_bytes / 2**20,
        "temporaries": memory.temp_size_in_bytes / 2**20,
        "code": memory.generated_code_size_in_bytes / 2**20,
    }
    text = compiled.as_text()
    if args.hlo is not None:
        args.hlo.parent.mkdir(parents=True, exist_ok=True)
        args.hlo.write_text(text)
    parts = parts_of(parse_hlo(text), target)
    row["parts"] = [part.figures(target) for part in parts]
    if args.top:
        row["largest"] = largest(parts, args.top)
    return row | totals(parts, target)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    target = targets()[args.target]
    problem = prepare(target)
    if problem is not None:
        print(problem, file=sys.stderr)
        return 1
    from _plan_programs import CannotBeCompiled
    from _plan_show import compare, show, title

    rows, failed = [], False
    try:
        read()
    except ValueError as error:
        print(f"The record, {RECORD}, must be JSON: {error}", file=sys.stderr)
        return 1
    cases = SUITE if args.suite else ({},)
    for case in cases:
        chosen = argparse.Namespace(**vars(args) | case)
        print(f"compiling: {title(vars(chosen))} ...", file=sys.stderr, flush=True)
        try:
            row = plan(chosen, target)
        except CannotBeCompiled as error:
            print(error, file=sys.stderr)
            failed = True
            continue
        show(row, target)
        rows.append(row)
        if args.compare:
            compare(find(row), row)
        if args.record:
            keep(row)
        if args.out is not None:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(rows, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
