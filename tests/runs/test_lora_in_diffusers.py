"""The adapter of a run in diffusers: the images that draftx draws with it."""

import dataclasses
import operator

import equinox as eqx
import numpy as np
import pytest

import draftx
from draftx.lora import has_lora
from draftx.runs import open_run, read_config, train


pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
# Of images in [0, 1], and how much more whatever is left out must change them.
TOLERANCE, MORE = 1e-4, 100
PROMPTS = ["a cat", "a dog"]
_TRAINING = (
    *("--max-train-steps", "2", "--train-batch-size", "1"),
    *("--method.name", "draft", "--method.truncation-steps", "1"),
    # So few steps would otherwise hardly change the images.
    *("--learning-rate", "0.03", "--rank", "4", "--alpha", "2"),
    *("--sampling.num-inference-steps", "3", "--sampling.guidance-scale", "3"),
    *("--evaluation.num-samples", "1", "--num-validation-images", "1"),
)


@pytest.fixture(scope="module")
def diffusers():
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    return pytest.importorskip("diffusers")


@pytest.fixture
def trained(tmp_path):
    """Trains a model of this name on these layers; gives its pipeline and its run."""
    (tmp_path / "prompts.txt").write_text("\n".join([*PROMPTS, "a cow"]))

    def run(model, targets):
        flags = ["--prompts", f"{tmp_path}/prompts.txt", "--held-out", "0.3"]
        config = read_config(None, ["--preset", "tiny", *_TRAINING, *flags])
        folder = str(tmp_path / "run")
        change = dict(model=str(model), targets=targets, output_dir=folder)
        result = train(dataclasses.replace(config, **change))
        return result.pipeline, open_run(folder)

    return run


def _draw(pipe, latents, sampling):
    import torch

    return pipe(
        PROMPTS,
        latents=torch.from_numpy(np.moveaxis(latents, -1, 1).copy()),
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        output_type="np",
    ).images


def _farthest(one, other):
    return np.abs(np.asarray(one) - np.asarray(other)).max()


def _assert_same_images(diffusers, base, folder, adapted, run):
    """Those of diffusers with the run's file are ours, and those of nothing less are.

    **Arguments:**

    - `base`, `folder`: The model without the adapter, and where it is saved.
    - `adapted`, `run`: What was trained, and the open run.
    """
    options = run.config.sampling
    sampling = draftx.Sampling(options.num_inference_steps, options.guidance_scale)
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((len(PROMPTS), *base.latent_shape), np.float32)
    ours = lambda pipeline: draftx.sample(pipeline, PROMPTS, sampling, latents=latents)

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(folder))
    pipe.set_progress_bar_config(disable=True)
    untrained = _draw(pipe, latents, sampling)
    assert _farthest(ours(base), untrained) < TOLERANCE
    lora = run.folder.lora
    pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
    theirs = _draw(pipe, latents, sampling)
    assert _farthest(ours(adapted), theirs) < TOLERANCE

    # Without the adapter, without its alpha, and without a part of it.
    assert run.config.alpha != run.config.rank
    others = [base, draftx.scale_lora(adapted, run.config.rank / run.config.alpha)]
    for part in ("unet", "text_encoder"):
        if has_lora(getattr(adapted, part)):
            whose = operator.attrgetter(part)
            others.append(eqx.tree_at(whose, adapted, whose(base)))
    for other in others:
        assert _farthest(ours(other), theirs) > MORE * TOLERANCE


def test_of_the_unet_and_the_text_encoder(diffusers, short_pipeline, model, trained):
    targets = ("cross_attention", "feed_forward", "text_encoder")
    adapted, run = trained(model, targets)
    assert has_lora(adapted.unet)
    assert has_lora(adapted.text_encoder)
    _assert_same_images(diffusers, short_pipeline, model, adapted, run)


@pytest.mark.slow
def test_of_the_embedded_model(diffusers, trained, tmp_path):
    adapted, run = trained("tiny", draftx.lora.DEFAULT_TARGETS)
    base = draftx.load("tiny")
    draftx.save(base, tmp_path / "base")
    _assert_same_images(diffusers, base, tmp_path / "base", adapted, run)
