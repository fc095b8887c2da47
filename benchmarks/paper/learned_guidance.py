"""A guidance weight learned for every step: appendix B.11 and figure 31 of the paper.

python benchmarks/paper/learned_guidance.py          # embedded model, a few minutes
python benchmarks/paper/learned_guidance.py --full   # Stable Diffusion 1.4

The claim: full DRaFT can learn the guidance weights of a sampler; interpolated, the
schedule serves chains of another length; at large scale it does not improve much.

Nothing but the weights is trained, at 50 times the learning rate, as in the paper. The
gain is the rise of the reward on held-out prompts above the constant weight it started
from. Beside it: what the schedule's mean gains as a constant, what the schedule gains
in a chain of twice the length, and what an adapter gains that DRaFT-1 trained for as
many steps. The claim is taken as: in all seeds a gain, and in the mean of them at least
half of it at twice the length.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np
from _common import parser, Rows, verdict
from _runs import guidance, make_reward, sampling_of, TRAINED
from _tuned import add_training_options, draw, load_short, score, settings_of, tuned
from tqdm import tqdm

import draftx


matplotlib.use("agg")
import matplotlib.pyplot as plt


def learn(pipeline: draftx.Pipeline, args, seed: int) -> list[float]:
    """The schedule that training comes to."""
    result = draftx.finetune(
        pipeline,
        make_reward(args.reward),
        TRAINED,
        sampling_of(args),
        method=draftx.DRaFT(),
        key=jr.key(seed),
        num_train_steps=args.num_train_steps,
        batch_size=args.batch,
        optimizer=draftx.adamw(args.learning_rate),
    )
    return result.pipeline.learned.guidance_scales.tolist()  # pyright: ignore


def main() -> None:
    options = parser(__doc__, "learned_guidance")
    add_training_options(options)
    options.add_argument("--reward", default="compressibility")
    args = options.parse_args()
    pipeline = load_short(args)
    draftx.enable_compilation_cache()
    total, start = args.num_inference_steps, guidance(args)
    constant = draftx.add_learned_inputs(
        pipeline, sampling_of(args), negative_embedding=False
    )
    reward = make_reward(args.reward)

    def reward_of(schedule: list[float], length: int = total) -> float:
        scales = jnp.asarray(schedule, jnp.float32)
        model = eqx.tree_at(lambda p: p.learned.guidance_scales, constant, scales)
        sampling = draftx.Sampling(length, start)
        return score(reward, draw(model, args, sampling=sampling))

    rows = Rows(args.out, settings_of(args) | {"reward": args.reward})
    before = {n: reward_of([start] * total, n) for n in (total, 2 * total)}
    for seed in tqdm(range(args.seeds), desc="seeds"):
        if rows.find(seed=seed) is not None:
            continue
        schedule = learn(constant, args, seed)
        level = [float(np.mean(schedule))] * total
        adapter = score(reward, draw(tuned(pipeline, args, args.reward, seed), args))
        figures = {
            "gain": reward_of(schedule) - before[total],
            "gain_of_its_mean": reward_of(level) - before[total],
            "gain_at_twice": reward_of(schedule, 2 * total) - before[2 * total],
            "gain_of_an_adapter": adapter - before[total],
        }
        rows.add({"seed": seed}, {"schedule": schedule} | figures)
    found = [rows.get(seed=seed) for seed in range(args.seeds)]
    schedules = np.array([row["schedule"] for row in found])
    names = ("gain", "gain_of_its_mean", "gain_at_twice", "gain_of_an_adapter")
    gain, of_mean, twice, adapter = (np.array([r[n] for r in found]) for n in names)

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.plot(range(total), schedules.T, color="C0", alpha=0.4)
    left.plot(range(total), schedules.mean(0), color="C0", marker="o")
    left.axhline(start, color="gray", linestyle=":")
    left.set(xlabel="step of sampling", ylabel="guidance weight (thin: seeds)")
    bars = np.stack([gain, of_mean, twice, adapter])
    labels = ("schedule", "its mean", f"{2 * total} steps", "adapter")
    right.bar(labels, bars.mean(1), yerr=bars.std(1), capsize=3)
    right.axhline(0, color="gray", linestyle=":")
    right.set(ylabel=f"gain of {args.reward}")
    figure.savefig(args.out / "learned_guidance.png", dpi=150)

    claims = {
        "a gain": np.all(gain > 0),
        "twice the length": twice.mean() >= 0.5 * gain.mean(),
    }
    failed = [name for name, holds in claims.items() if not holds]
    spread = lambda x: f"{x.mean():.3g} (± {x.std():.2g})"
    verdict(
        args.out,
        f"{'Does not hold here for ' + ', '.join(failed) if failed else 'Holds here'}: "
        f"the schedule gains {spread(gain)} in {args.reward}, its mean as a constant "
        f"{spread(of_mean)}, at {2 * total} steps the schedule {spread(twice)}; an "
        f"adapter gains {spread(adapter)}. The weight went from {start:g} to "
        f"{spread(schedules[:, 0])} at the first and {spread(schedules[:, -1])} at the "
        f"last of {total} steps ({args.seeds} seeds).",
    )


if __name__ == "__main__":
    main()
