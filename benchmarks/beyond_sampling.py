"""What the gradient of the last K steps takes beyond sampling, in forward passes.

python benchmarks/beyond_sampling.py                    # embedded model, K = 1
python benchmarks/beyond_sampling.py --k 1 2 5 --batch 1

The unit is one step of sampling, guidance included. The reward is a function of the
latents, so that neither a decoder nor a reward blurs the figure, and nothing is
computed twice. By operations it is at most 1.25 for a step of the published model; on
a CPU the page faults of new memory come on top. Sampling and gradients take turns, call
by call.
"""

import argparse
import json
import pathlib
import time

import jax
import numpy as np
from _models import chain_program, make_inputs

import draftx


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="as for memory_vs_k.py")
    parser.add_argument("--k", type=int, nargs="+", default=[1])
    parser.add_argument("--num-inference-steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=pathlib.Path, help="JSON file")
    args = parser.parse_args()
    total = args.num_inference_steps
    if total < 1 or args.repeats < 1 or not all(1 <= k <= total for k in args.k):
        parser.error(
            "--num-inference-steps and --repeats must be at least 1 and every --k in "
            f"[1, {total}]; got --k {args.k}, --repeats {args.repeats}."
        )
    inputs = make_inputs(args.model, dtype=args.dtype, batch=args.batch, rank=args.rank)
    calls, sampling = {}, draftx.Sampling(total)
    for k in (0, *args.k):
        program = chain_program(inputs, sampling, k)
        compiled = jax.jit(program.fn).lower(program.arrays).compile()
        calls[k] = lambda c=compiled, a=program.arrays: jax.block_until_ready(c(a))
    seconds: dict[int, list[float]] = {k: [] for k in calls}
    for round_ in range(args.repeats + 1):
        for k, call in calls.items():
            start = time.perf_counter()
            call()
            if round_:  # The first is a warm-up.
                seconds[k].append(time.perf_counter() - start)
    step = float(np.median(seconds[0])) / total
    rows = []
    print(f"{jax.devices()[0].device_kind}, {args.model}, {total} steps")
    print("  K   median s      p10      p90   forward passes beyond sampling")
    for k, values in seconds.items():
        low, middle, high = np.percentile(values, [10, 50, 90]).tolist()
        beyond = (middle - step * total) / step
        rows.append({"k": k, "seconds": values, "forward_passes": beyond})
        print(f"{k:3} {middle:10.4f} {low:8.4f} {high:8.4f}   {beyond:.2f}")
    if args.out is not None:
        args.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
