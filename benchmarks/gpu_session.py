"""Everything worth measuring on a GPU, in one short visit.

python benchmarks/gpu_session.py --minutes 11
python benchmarks/gpu_session.py --small         # a rehearsal on a CPU, in minutes

In this order: what the machine is; whether kernels on it are right; sampling, DRaFT-1,
DRaFT-LV and DRaFT-50, each beside its plan (`compiled_plan.py`) and beside PyTorch,
eager and compiled; memory by K; whether gradients and tests are right; every kernel;
the other tiers; the paper's methods at scale; where the time goes, by kind of kernel;
flags of XLA. What would not fit into the device is not begun.

PyTorch's rows need torch, diffusers (which needs importlib_metadata) and peft; all rows
need what draftx needs (of it a machine with JAX may lack jaxtyping with
wadler_lindig, tyro with typeguard and shtab, tomli_w and ftfy). Without a network they
come as wheels: pip download --no-deps on another machine, pip install --no-index here.

Each stage is a process of its own. What it found is in `progress.json` as soon as it
ends, and after every stage a JSON file and a Markdown summary named after the device
and the day are written beside it. A stage for which the time left is too short is
skipped. Called again with the same `--out`, the session goes on with what is missing;
`--fresh` begins anew. Where a machine ends long commands, give `--minutes` a little
less than it grants.

Compiled programs and logs stay in `--work`. `--list` shows the stages, `--only` runs
some of them: all whose names begin with one of the words given.
"""

import argparse
import importlib
import pathlib
import sys
import tempfile
import time

from _context import Context
from _session import Progress, ROOT, run_stage, STAGES
from _summary import write_summary


# Packages that a machine may lack: what needs them is then left out.
_OPTIONAL = ("torch", "diffusers", "peft", "transformers", "pytest")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--small", action="store_true", help="tiny sizes, on a CPU")
    parser.add_argument("--only", nargs="+", help="beginnings of stages' names")
    parser.add_argument("--list", action="store_true", help="names of the stages")
    parser.add_argument("--fresh", action="store_true", help="forget what is done")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        help="folder of the results; benchmarks/results, a new one for --small",
    )
    parser.add_argument(
        "--work",
        type=pathlib.Path,
        help="folder of compiled programs and logs; by default outputs/gpu_session, "
        "for --small beside the results",
    )
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if not args.minutes > 0:
        parser.error(f"--minutes must be positive; got {args.minutes}.")
    for name in ("out", "work"):
        path = getattr(args, name)
        if path is not None and path.exists() and not path.is_dir():
            parser.error(f"--{name} must be a folder; got the file {str(path)!r}.")
    known = tuple(stage.name for stage in STAGES)
    for word in args.only or ():
        if not any(name.startswith(word) for name in known):
            parser.error(f"--only must begin one of {', '.join(known)}; got {word!r}.")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.stage is not None:
        _run_here(args)
        return
    stages = tuple(s for s in STAGES if s.rehearsed or not args.small)
    if args.only:
        stages = tuple(s for s in stages if s.name.startswith(tuple(args.only)))
    if args.list:
        print("\n".join(f"{s.name:28} up to {s.seconds:.0f} s" for s in stages))
        return
    deadline = time.monotonic() + 60 * args.minutes
    if args.out is None:
        args.out = ROOT / "benchmarks" / "results"
        if args.small:
            args.out = pathlib.Path(tempfile.mkdtemp(prefix="gpu_session_"))
    if args.work is None:
        args.work = ROOT / "outputs" / "gpu_session"
        if args.small:
            args.work = args.out / "work"
    # Stages run in another folder than the one in which this was called.
    args.out, args.work = args.out.resolve(), args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    path = args.out / "progress.json"
    if args.fresh:
        path.unlink(missing_ok=True)
    progress = Progress(path)
    files: list[pathlib.Path] = []
    for stage in progress.to_do(stages):
        left = deadline - time.monotonic()
        print(f"{stage.name} ...", end=" ", flush=True)
        run_stage(stage, progress, small=args.small, work=args.work, left=left)
        entry = progress.stages[stage.name]
        detail = entry.get("note") or f"{entry.get('seconds', 0):.0f} s"
        print(f"{entry['status']}: {detail}", flush=True)
        files = write_summary(args.out, progress, small=args.small)
    missing = progress.to_do(stages)
    if files:
        print("\n" + files[-1].read_text())
        print(", ".join(map(str, files)))
    if not missing and not args.only:
        path.unlink()  # The next call is a new visit.
    elif missing:
        names = ", ".join(stage.name for stage in missing)
        print(f"Not done: {names}. The same command goes on with these.")


def _run_here(args) -> None:
    """One stage, in this process."""
    (stage,) = (s for s in STAGES if s.name == args.stage)
    sys.path.append(str(ROOT / "benchmarks" / "kernels"))
    context = Context(small=args.small, work=args.work)
    module, _, name = stage.function.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        result = function(context, **stage.options)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _OPTIONAL:
            raise
        result = {"unavailable": str(error)}
    context.save(result)


if __name__ == "__main__":
    main()
