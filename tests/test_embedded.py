"""The embedded model: it loads from anywhere, and draws what it is asked for."""

import importlib
import json
import pathlib
import subprocess
import sys

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.rewards._preprocess import CLIP_MEAN, CLIP_STD


_ROOT = pathlib.Path(__file__).parent.parent
_LIMIT_MB = 24


def _weights_module(name):
    sys.path.insert(0, str(_ROOT / "weights"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def _share(seen, wanted):
    return np.mean(np.equal(seen, wanted))


@pytest.fixture(scope="module")
def tiny():
    return draftx.load("tiny")


def test_it_is_small():
    size = sum(
        p.stat().st_size for p in (_ROOT / "weights/tiny").rglob("*") if p.is_file()
    )
    assert size < _LIMIT_MB * 1e6


def test_it_computes_in_float32_or_what_is_asked_for(tiny):
    assert {x.dtype.name for x in jax.tree.leaves(tiny)} == {"float32"}
    half = draftx.load("tiny", dtype="bfloat16")
    assert {x.dtype.name for x in jax.tree.leaves(half)} == {"bfloat16"}


def test_it_loads_from_another_folder(tmp_path):
    code = "import draftx; print(draftx.load('tiny').latent_shape)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stdout.strip() == "(16, 16, 4)", result.stderr


def test_the_networks_of_the_embedded_rewards_are_small():
    for name, most in (("clip", 4e6), ("classifier", 4e6), ("counter", 2e6)):
        files = (_ROOT / "weights" / name).iterdir()
        assert sum(p.stat().st_size for p in files) < most


def test_they_reach_their_targets():
    figures = json.loads((_ROOT / "weights/figures.json").read_text())
    for module, measured in (
        ("evaluate_rewards", figures),
        ("evaluate_counts", figures["counts"]),
    ):
        for name, targets in _weights_module(module).TARGETS.items():
            for figure, target in targets.items():
                assert measured[name][figure] >= target, (name, figure)


@pytest.fixture(scope="module")
def drawn(tiny):
    """Every fourth animal, its prompts and its images."""
    animals = _weights_module("scenes").ANIMALS[::4]
    articles = ["an" if name[0] in "aeiou" else "a" for name in animals]
    prompts = [
        f"{article} {name}, 3d style, on a plain blue background"
        for article, name in zip(articles, animals, strict=True)
    ]
    sampling = draftx.Sampling(num_inference_steps=20, guidance_scale=4.0)
    images = draftx.sample(tiny, prompts, sampling, key=jr.key(1))
    return animals, prompts, images


def test_the_judge_recognizes_its_animals(drawn):
    animals, _, images = drawn
    judge = _weights_module("judge")
    logits = eqx.filter_jit(judge.load_judge())(images)["animal"]
    seen = [judge.HEADS["animal"][i] for i in np.argmax(np.asarray(logits), axis=-1)]
    assert _share(seen, animals) >= 0.75, list(zip(animals, seen, strict=True))


@pytest.fixture(scope="module")
def several(tiny):
    """Numbers from one to four, and images of prompts that say them."""
    words = {1: "a cat", 2: "two dogs", 3: "three foxes", 4: "four pigs"}
    prompts = [
        f"{said}, flat style, on a plain blue background"
        for said in (*words.values(), "a bear", "two sheep", "three mice", "four frogs")
    ]
    sampling = draftx.Sampling(num_inference_steps=20, guidance_scale=4.0)
    return [1, 2, 3, 4] * 2, draftx.sample(tiny, prompts, sampling, key=jr.key(2))


def test_numbers_are_drawn_and_counted(drawn, several):
    wanted, images = several
    judge = _weights_module("judge").load_counting_judge()
    seen = np.argmax(np.asarray(eqx.filter_jit(judge)(images)["count"]), axis=-1)
    assert _share(seen, wanted) >= 0.7, list(zip(wanted, seen, strict=True))
    reward = draftx.rewards.load("tiny-counter", options={"count": 1})
    off = -np.asarray(eqx.filter_jit(reward)(drawn[2]))
    assert np.mean(off < 0.5) >= 0.75
    by_row = draftx.rewards.load("tiny-counter")
    rows = by_row.prepare({"prompt": ["a"] * 8, "count": seen})
    off = -np.asarray(eqx.filter_jit(by_row)(images, rows))
    assert np.mean(off < 0.5) >= 0.7


def test_the_embedded_classifier_recognizes_them(drawn):
    animals, _, images = drawn
    names = _weights_module("scenes").ANIMALS
    reward = draftx.rewards.load("tiny-classifier", options={"target": "cat"})
    assert reward.targets == (names.index("cat"),)
    logits = eqx.filter_jit(lambda r, x: r.classifier(r.preprocess(x)))(reward, images)
    seen = [names[i] for i in np.argmax(np.asarray(logits), axis=-1)]
    assert _share(seen, animals) >= 0.75, list(zip(animals, seen, strict=True))


def test_the_embedded_clip_prefers_the_right_prompt(drawn):
    _, prompts, images = drawn
    reward = draftx.rewards.load("tiny-clip", options={"remat": "none"})
    score = eqx.filter_jit(lambda r, x, p: r(x, p))
    right = np.asarray(score(reward, images, reward.prepare(prompts)))
    other_animal = prompts[1:] + prompts[:1]
    elsewhere = [prompt.replace("plain blue", "dotted red") for prompt in prompts]
    for wrong in (other_animal, elsewhere):
        scores = np.asarray(score(reward, images, reward.prepare(wrong)))
        assert np.mean(right > scores) >= 0.9


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_diffusers_draws_the_same_images(tiny):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        _ROOT / "weights/tiny", torch_dtype=torch.float32
    )
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    prompts = ["a fox, 3d style, on a striped blue background", "a cat, flat style"]
    latents = np.asarray(jr.normal(jr.key(2), (2, 16, 16, 4)))
    theirs = pipe(
        prompts,
        latents=torch.from_numpy(latents.transpose(0, 3, 1, 2).copy()),
        num_inference_steps=20,
        guidance_scale=4.0,
        output_type="np",
    ).images
    sampling = draftx.Sampling(num_inference_steps=20, guidance_scale=4.0)
    ours = draftx.sample(tiny, prompts, sampling, latents=latents)
    assert np.abs(np.asarray(ours) - theirs).max() < 2e-3


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_transformers_reads_the_embedded_clip(getkey):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPModel.from_pretrained(
        _ROOT / "weights/clip", torch_dtype=torch.float32
    )
    reward = draftx.rewards.load("tiny-clip")
    prompts = ["a fox, 3d style", "a striped blue background", "a cat"]
    images = jr.uniform(getkey(), (3, 64, 64, 3))
    pixels = (np.asarray(images) - np.asarray(CLIP_MEAN)) / np.asarray(CLIP_STD)
    with torch.no_grad():
        out = theirs(
            pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float(),
            input_ids=torch.from_numpy(reward.tokenizer(prompts)).long(),
        )
    expected = torch.sum(out.image_embeds * out.text_embeds, dim=1).numpy()
    ours = np.asarray(reward(images, reward.prepare(prompts)))
    np.testing.assert_allclose(ours, expected, atol=1e-5)
