"""Fine-tunes a text-to-image model so that its pictures resemble none of their turns.

python examples/rotation.py                               # about three minutes
python examples/rotation.py --model CompVis/stable-diffusion-v1-4  # the paper

A reward without any network: the mean squared distance to the picture turned by 90, 180
and 270 degrees. It grows with contrast, so that pictures go to black and white.

Measured with the embedded model, 45 pictures of held-out animals: 0.071 -> 0.247, and
the judge recognizes 82 % of the animals (100 % before).
"""

from _common import animal_prompts, make_parser, parse, run

import draftx


def main() -> None:
    args = parse(make_parser(__doc__))
    reward = draftx.rewards.RotationAntiCorrelation()
    run(args, reward, *animal_prompts(args))


if __name__ == "__main__":
    main()
