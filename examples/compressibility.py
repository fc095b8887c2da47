"""Fine-tunes a text-to-image model so that its images compress better.

python examples/compressibility.py                        # about three minutes
python examples/compressibility.py --model CompVis/stable-diffusion-v1-4  # the paper

A run as `draftx train` makes it, in one folder: metrics, curves, samples, the adapter
at several scales, a model card. The same command goes on where it was stopped. Beside
the reward, real files are measured; `before_after.png` has their sizes below images.
"""

import argparse
import pathlib

from _common import (
    animal_prompts,
    make_parser,
    or_exit,
    parse,
    run_config,
    write_before_after,
)
from _pictures import bytes_below

import draftx


MEASURES = pathlib.Path(__file__).with_name("_measures.py")


def held_out_prompts(args: argparse.Namespace) -> str | None:
    """Names what is measured on: the paper's animals, which it trains on as well."""
    if args.num_test_prompts is None:
        return None if args.is_tiny else "{animals}"
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "held_out.txt"
    fewer = animal_prompts(args)[1][: args.num_test_prompts]
    file.write_text("\n".join(fewer) + "\n")
    return str(file)


def main() -> None:
    args = parse(make_parser(__doc__))
    measured = ["bytes_q80", "bytes_above_flat_q80", "bytes_above_flat_q95"]
    measured += ["animal_accuracy"] if args.is_tiny else []
    config = run_config(
        args,
        reward=("compressibility",),
        # Those of weight 0 are measured, and are no part of the score.
        eval_reward=("compressibility", *(f"{MEASURES}:{x}=0" for x in measured)),
        held_out_prompts=held_out_prompts(args),
    )
    tuned = or_exit(draftx.runs.train, config).pipeline

    write_before_after(args, tuned, bytes_below)
    before, *_, after = draftx.runs.open(args.out).evaluations
    print("held-out prompts, before and after:")
    for name in ("compressibility", *measured):
        print(f"  {name:>22}: {before[name]:9.3f} -> {after[name]:9.3f}")
    print(f"everything is in {args.out.resolve()}")


if __name__ == "__main__":
    main()
