"""Fine-tunes a text-to-image model so that its pictures match their prompts better.

python examples/clip_score.py                             # about three minutes
python examples/clip_score.py --model CompVis/stable-diffusion-v1-4  # the paper

The embedded model is rewarded by the embedded CLIP; any other model by CLIP ViT-L/14,
1.7 GB from the Hugging Face Hub. The reward is given the prompt of every picture: it
says what it needs of the prompts in `prepare`, which `draftx.finetune` calls once.
"""

from _common import animal_prompts, load_reward, make_parser, parse, run, seen_by_judge


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
    measure = agreement if args.is_tiny else None
    run(args, reward, *animal_prompts(args), measure=measure)


if __name__ == "__main__":
    main()
