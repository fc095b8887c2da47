"""Fine-tunes a text-to-image model on a weighted sum of three models of human taste.

python examples/human_preference.py                       # about three minutes
python examples/human_preference.py --model CompVis/stable-diffusion-v1-4  # the paper

The paper's weights: 10 for PickScore, 2 for HPSv2 and 0.05 for the LAION aesthetic
score, 14 GB from the Hugging Face Hub in all. Nobody was asked about the embedded
model's images. There, what was asked for (the embedded CLIP) stands in for preference
and few bytes (JPEG) for beauty: two rewards whose sizes differ as much.
"""

import argparse

import jax.random as jr
from _common import (
    animal_prompts,
    load_model,
    load_reward,
    make_parser,
    method_of,
    parse,
    Report,
)

import draftx


def reward_for(args: argparse.Namespace) -> draftx.AbstractReward:
    if args.is_tiny:
        terms = [load_reward("tiny-clip"), draftx.rewards.JPEGCompressibility()]
        return draftx.rewards.WeightedSum(terms, [10, 0.05])
    # Cosines: with PickScore's own scale of 100 its weight would be 1000.
    terms = [
        load_reward("pickscore", {"scale": 1}),
        load_reward("hpsv2"),
        load_reward("aesthetic"),
    ]
    return draftx.rewards.WeightedSum(terms, [10, 2, 0.05])


def main() -> None:
    args = parse(make_parser(__doc__))
    reward = reward_for(args)
    train_prompts, test_prompts = animal_prompts(args)
    report = Report(args, reward, test_prompts)
    adapter_key, train_key, draw_key = jr.split(jr.key(args.seed), 3)
    pipeline = draftx.add_lora(load_model(args), rank=args.rank, key=adapter_key)
    sampling = draftx.Sampling(
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        height=args.height,
        width=args.width,
    )
    report.before(pipeline, sampling, draw_key)
    result = draftx.finetune(
        pipeline,
        reward,
        train_prompts,
        sampling,
        method=method_of(args),
        key=train_key,
        num_train_steps=args.steps,
        batch_size=args.batch_size,
        memory=args.memory,
        optimizer=draftx.adamw(args.learning_rate),
        callbacks=(draftx.ProgressBar(), report.log),
    )
    report.after(result.pipeline)


if __name__ == "__main__":
    main()
