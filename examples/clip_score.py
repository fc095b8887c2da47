"""Fine-tunes a text-to-image model so that its images match their prompts better.

python examples/clip_score.py                             # about three minutes
python examples/clip_score.py --model CompVis/stable-diffusion-v1-4  # the paper

The embedded model is rewarded by the embedded CLIP; any other model by CLIP ViT-L/14,
1.7 GB from the Hugging Face Hub. The reward is given the prompt of every image: its
`prepare` makes features of the rows of prompts, which `draftx.finetune` asks for once.
"""

import jax.random as jr
from _common import (
    animal_prompts,
    load_model,
    load_reward,
    make_parser,
    method_of,
    parse,
    Report,
    seen_by_judge,
)

import draftx


def agreement(images, prompts) -> dict[str, float]:
    """How often a judge sees everything that was asked for."""
    seen = zip(*seen_by_judge(images).values(), strict=True)
    rows = zip(seen, prompts, strict=True)
    is_right = [all(word in prompt for word in words) for words, prompt in rows]
    return {"judge_agrees": sum(is_right) / len(is_right)}


def main() -> None:
    # With 20 steps the embedded model leaves this reward little to improve.
    tiny = dict(steps=100, num_inference_steps=3, guidance_scale=1.0)
    args = parse(make_parser(__doc__), **tiny)
    reward = load_reward("tiny-clip" if args.is_tiny else "clip")
    train_prompts, test_prompts = animal_prompts(args)
    measure = agreement if args.is_tiny else None
    report = Report(args, reward, test_prompts, measure=measure)
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
