"""Fine-tunes a text-to-image model so that its images resemble none of their turns.

python examples/rotation.py                               # about three minutes
python examples/rotation.py --model CompVis/stable-diffusion-v1-4  # the paper

A reward without any network: the mean squared distance to the image turned by 90, 180
and 270 degrees. It grows with contrast, so that images go to black and white.

Measured with the embedded model, 45 images of held-out animals: 0.072 -> 0.260, and
the judge recognizes 76 % of the animals (100 % before).
"""

import jax.random as jr
from _common import (
    animal_prompts,
    load_model,
    make_parser,
    method_of,
    parse,
    Report,
)

import draftx


def main() -> None:
    args = parse(make_parser(__doc__))
    reward = draftx.rewards.RotationAntiCorrelation()
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
