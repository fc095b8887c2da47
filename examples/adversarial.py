"""Fine-tunes a text-to-image model so that its mice are taken for cats.

python examples/adversarial.py                            # about three minutes
python examples/adversarial.py --model CompVis/stable-diffusion-v1-4  # the paper

The reward is the log-probability that a classifier gives to "cat", while the prompts
ask for a mouse. The embedded model is rewarded by the embedded classifier; any other
model by ResNet-50, 100 MB from the Hugging Face Hub. `judge_says_...` is what another
network sees, which was not attacked.

Measured with the embedded model, 30 images on backgrounds that it was not trained on:
log-probability of "cat" -6.1 -> -0.07. The attack does not stay one: mice become yellow
cats with pointed ears, 100 % of them for the judge as well.
"""

import argparse

import jax.random as jr
import numpy as np
from _common import (
    load_model,
    load_reward,
    make_parser,
    method_of,
    parse,
    Report,
    seen_by_judge,
)
from _prompts import scenes

import draftx


# ImageNet has no "cat", but these.
IMAGENET_CATS = (
    "tabby",
    "tiger cat",
    "Persian cat",
    "Siamese cat",
    "Egyptian cat",
)


def prompts(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    if not args.is_tiny:
        return [args.source], [args.source] * 12
    train = scenes([args.source], ("red", "orange", "yellow", "green", "teal", "blue"))
    return train, scenes([args.source], ("purple", "pink"))


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--source", default="mouse", help="what the prompts ask for")
    parser.add_argument("--target", nargs="+", help="what the classifier is to see")
    args = parse(parser, steps=60, learning_rate=1e-3)
    if args.is_tiny:
        target = args.target or ["cat"]
        reward = load_reward("tiny-classifier", {"target": target})
    else:
        target = args.target or IMAGENET_CATS
        reward = load_reward("resnet50", {"target": target})

    def measure(images, prompts) -> dict[str, float]:
        del prompts
        logits = reward.classifier(reward.preprocess(images))
        is_fooled = np.isin(np.argmax(np.asarray(logits), axis=-1), reward.targets)
        figures = {"classifier_is_fooled": float(np.mean(is_fooled))}
        if args.is_tiny:
            seen = np.asarray(seen_by_judge(images)["animal"])
            for name in (args.source, *target):
                figures[f"judge_says_{name}"] = float(np.mean(seen == name))
        return figures

    train_prompts, test_prompts = prompts(args)
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
