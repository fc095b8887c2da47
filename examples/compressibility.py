"""Fine-tunes a text-to-image model so that its images compress better.

python examples/compressibility.py                        # about three minutes
python examples/compressibility.py --model CompVis/stable-diffusion-v1-4  # the paper

Writes into the output folder: `before_after.png` (held-out prompts, the same noise),
`reward.png`, `scales.png`, `lora.safetensors`, `metrics.jsonl` and `summary.json`.
"""

import jax.random as jr
import numpy as np
from _common import (
    animal_prompts,
    load_model,
    make_parser,
    method_of,
    parse,
    Report,
)
from _pictures import jpeg_bytes

import draftx


def file_sizes(images, prompts) -> dict[str, float]:
    """Of real JPEG files, in bytes; a flat image's file is all header."""
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
    train_prompts, test_prompts = animal_prompts(args)
    report = Report(args, reward, test_prompts, measure=file_sizes, below=bytes_below)
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
        optimizer=draftx.adamw(args.learning_rate),
        callbacks=(draftx.ProgressBar(), report.log),
    )
    report.after(result.pipeline)


if __name__ == "__main__":
    main()
