"""Fine-tunes a text-to-image model so that its pictures compress better.

python examples/compressibility.py                        # about three minutes
python examples/compressibility.py --model CompVis/stable-diffusion-v1-4  # the paper

Writes into the output folder: `before_after.png` (held-out prompts, the same noise),
`reward.png`, `scales.png`, `lora.safetensors`, `metrics.jsonl` and `summary.json`.
"""

import numpy as np
from _common import animal_prompts, make_parser, parse, run
from _pictures import jpeg_bytes

import draftx


def file_sizes(images, prompts) -> dict[str, float]:
    """Of real JPEG files, in bytes; a flat picture's file is all header."""
    del prompts
    flat = np.full_like(np.asarray(images[:1]), 0.5)
    figures = {}
    for quality in (80, 95):
        size = float(jpeg_bytes(images, quality).mean())
        figures[f"bytes_q{quality}"] = size
        header = float(jpeg_bytes(flat, quality).mean())
        figures[f"bytes_above_flat_q{quality}"] = size - header
    return figures


def bytes_below(images) -> list[str]:
    return [f"{size} B" for size in jpeg_bytes(images, 80)]


def main() -> None:
    args = parse(make_parser(__doc__))
    reward = draftx.rewards.JPEGCompressibility()
    run(args, reward, *animal_prompts(args), measure=file_sizes, below=bytes_below)


if __name__ == "__main__":
    main()
