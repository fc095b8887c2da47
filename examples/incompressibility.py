"""Fine-tunes a text-to-image model so that its pictures compress worse.

python examples/incompressibility.py                      # about three minutes
python examples/incompressibility.py --model CompVis/stable-diffusion-v1-4  # paper

The same distance as in `compressibility.py`, the other way round: detail appears
wherever JPEG would lose it. Writes the same files.

Measured with the embedded model, 45 pictures of held-out animals: real files at quality
80 grow from 1984 to 2300 bytes, and the judge recognizes all animals.
"""

from _common import animal_prompts, make_parser, parse, run
from compressibility import bytes_below, file_sizes

import draftx


def main() -> None:
    args = parse(make_parser(__doc__))
    reward = draftx.rewards.JPEGIncompressibility()
    run(args, reward, *animal_prompts(args), measure=file_sizes, below=bytes_below)


if __name__ == "__main__":
    main()
