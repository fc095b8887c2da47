"""What a gradient of the reward costs in memory and time, by K and by remat tier.

python benchmarks/memory_vs_k.py                                 # embedded model
python benchmarks/memory_vs_k.py --model sd14-shape --aot-only   # real shapes, not run

Memory is XLA's own analysis of the compiled program (`_measure.py`): the weights and
other inputs, and what is "beyond weights": the results and all temporaries at their
peak. Beside it stands the device's own count of its peak on a GPU, and on a CPU that of
the process, which has Python, JAX and the compiler in it.

`--aot-only` compiles for shapes alone: a machine that could not hold or run the model
shows what it would need. On a CPU the compiler widens bfloat16 convolutions and matrix
products to float32: what it says of a bfloat16 program is an upper bound.

FLOP/s are of the model, without recomputation (`_flops.py`). The first row's
compilation is timed a second time, in a new process with a warm compilation cache. With
`--cache` no compilation is cold but the first that uses the folder. Figures go to a
table, to a JSON file after every row, and to a plot.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
from typing import Any


os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
if "xla_cpu_multi_thread_eigen" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    )

import jax
from _measure import use_cache
from _models import RANDOM_MODELS
from _plots import plot_memory
from _rows import growth, inputs_of, measure, measure_all

import draftx
from draftx.layers import Remat


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The options, completed and possible; exits with a message if they are not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        default="tiny",
        help="'tiny' (embedded), 'sd14-shape' (random weights) or a diffusers folder",
    )
    parser.add_argument("--aot-only", action="store_true", help="compile, do not run")
    parser.add_argument("--method", default="draft", choices=("draft", "draft-lv"))
    parser.add_argument("--k", type=int, nargs="+", help="differentiated steps")
    parser.add_argument(
        "--remat", nargs="+", choices=list(Remat)[1:], help="tiers to compare"
    )
    parser.add_argument("--num-inference-steps", type=int, help="10 for tiny, else 50")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument(
        "--images-at-once", type=int, help="decoded and rewarded; by default all"
    )
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--warm",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether to compile the first row again from a warm cache",
    )
    parser.add_argument("--cache", type=pathlib.Path, help="of compiled programs")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("outputs"))
    parser.add_argument("--row", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    tiny = args.model == "tiny"
    if args.num_inference_steps is None:
        args.num_inference_steps = 10 if tiny else 50
    problem = _problem(args)
    if problem is not None:
        parser.error(problem)
    total = args.num_inference_steps
    if args.remat is None:
        args.remat = ["block", "step"] if tiny else ["step"]
    if args.method == "draft-lv":
        args.k = [1]
    elif args.k is None:
        args.k = [k for k in (1, 5 if tiny else 10) if k < total] + [total]
    args.k = list(dict.fromkeys(args.k))
    args.remat = list(dict.fromkeys(args.remat))
    return args


def _problem(args) -> str | None:
    total, batch, size = args.num_inference_steps, args.batch, args.images_at_once
    for name in ("num_inference_steps", "batch", "rank", "repeats"):
        if getattr(args, name) < 1:
            option = "--" + name.replace("_", "-")
            return f"{option} must be at least 1; got {getattr(args, name)}."
    for name in ("out", "cache"):
        path = getattr(args, name)
        if path is not None and path.exists() and not path.is_dir():
            return f"--{name} must be a folder; got the file {str(path)!r}."
    if total > 1000:
        return f"--num-inference-steps must lie in [1, 1000]; got {total}."
    if args.k is not None and args.method == "draft-lv":
        return "--k is of --method draft; draft-lv always differentiates one step."
    for k in args.k or ():
        if not 1 <= k <= total:
            return f"--k must lie in [1, {total}], the sampling steps; got {k}."
    if size is not None and (size < 1 or batch % size):
        return f"--images-at-once must divide --batch, {batch}; got {size}."
    if args.model not in ("tiny", *RANDOM_MODELS):
        if not pathlib.Path(args.model).is_dir():
            names = ", ".join(map(repr, ("tiny", *RANDOM_MODELS)))
            return f"--model must be {names} or a folder; got {args.model!r}."
    return None


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        given = args.cache is not None
        args.cache = args.cache if given else pathlib.Path(folder)
        use_cache(str(args.cache))
        try:
            if args.row is None:
                _report(args, given)
                return
            inputs = inputs_of(args, only_shapes=args.aot_only)
            row = measure(inputs, args, args.k[0], args.remat[0])
        except draftx.io.ModelFileError as error:
            sys.exit(str(error))  # Says how to get the files.
        args.row.write_text(json.dumps(row))


def _report(args, cache_given: bool) -> None:
    record: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "cache": "given" if cache_given else "new",
        "arguments": {
            name: value if isinstance(value, int | float | list) else str(value)
            for name, value in vars(args).items()
            if name not in ("row", "cache", "out")
        },
    }
    name = "-".join([pathlib.Path(args.model).name, args.method, args.dtype])
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"memory_vs_k-{name}"

    def save(rows) -> None:
        text = json.dumps(record | {"rows": rows}, indent=1)
        stem.with_suffix(".json").write_text(text + "\n")

    rows = measure_all(args, save)
    for line in growth(rows, inputs_of(args, only_shapes=True)):
        print(line)
    if any("error" not in row for row in rows):
        title = f"{name}, {args.num_inference_steps} steps, batch {args.batch}"
        if args.images_at_once is not None:
            title += f", {args.images_at_once} decoded at once"
        plot_memory(stem.with_suffix(".png"), rows, f"{title}, {record['device']}")
    print(f"{stem}.json and .png")


if __name__ == "__main__":
    main()
