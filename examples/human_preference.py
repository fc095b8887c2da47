"""Fine-tunes a text-to-image model on a weighted sum of three models of human taste.

python examples/human_preference.py                       # about three minutes
python examples/human_preference.py --model CompVis/stable-diffusion-v1-4  # the paper

The paper's weights: 10 for PickScore, 2 for HPSv2 and 0.05 for the LAION aesthetic
score, 14 GB from the Hugging Face Hub in all. Nobody was asked about the embedded
model's pictures. There, what was asked for (the embedded CLIP) stands in for preference
and few bytes (JPEG) for beauty: two rewards whose sizes differ as much.
"""

import argparse

from _common import animal_prompts, load_reward, make_parser, parse, run

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
    run(args, reward_for(args), *animal_prompts(args))


if __name__ == "__main__":
    main()
