"""Fine-tunes a text-to-image model so that its pictures match their prompts better.

python examples/clip_score.py                             # about three minutes
python examples/clip_score.py --model CompVis/stable-diffusion-v1-4  # the paper

The embedded model is rewarded by the embedded CLIP; any other model by CLIP ViT-L/14,
1.7 GB from the Hugging Face Hub. The reward is given the prompt of every picture: it
says what it needs of the prompts in `prepare`, which `draftx.finetune` calls once.
"""

from _common import animal_prompts, load_reward, make_parser, parse, run


def main() -> None:
    args = parse(make_parser(__doc__))
    reward = load_reward("tiny-clip" if args.is_tiny else "clip")
    run(args, reward, *animal_prompts(args))


if __name__ == "__main__":
    main()
