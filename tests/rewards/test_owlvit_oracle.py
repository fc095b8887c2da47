"""OWL-ViT against transformers, live."""

import jax.numpy as jnp
import numpy as np
import pytest

from draftx.io import read_owlvit, read_tokenizer
from draftx.rewards import DetectionReward
from draftx.rewards._preprocess import stretch_preprocess

from ..goldens import make_clip, make_owlvit
from ..helpers import relative_error
from ..io.test_manifests import manifest
from . import tiny_clip
from .test_owlvit import score, value_and_grad


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_golden_is_what_is_installed(transformers):
    with np.load(make_owlvit.PATH) as file:
        golden = dict(file)
    live = make_owlvit.reference()
    assert golden.keys() == live.keys()
    assert str(golden.pop("shapes")) == str(live["shapes"])
    for key in golden:
        np.testing.assert_allclose(golden[key], live[key], rtol=1e-4, atol=1e-6)
    shapes = {key: tuple(shape) for key, shape in make_owlvit.manifest().items()}
    assert shapes == manifest("owlvit_b32")


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_transformers(transformers, tmp_path):
    """From words and images to what its postprocessing calls detections."""
    import torch

    text = make_clip._TEXT | dict(
        hidden_size=24, hidden_act="gelu", num_hidden_layers=3, eos_token_id=30
    )
    vision = dict(
        hidden_act="gelu",
        hidden_size=20,
        image_size=20,
        intermediate_size=28,
        layer_norm_eps=1e-3,
        num_attention_heads=4,
        num_hidden_layers=3,
        patch_size=5,
    )
    config = dict(text_config=text, vision_config=vision, projection_dim=24)
    owlvit = make_owlvit.model(config)
    make_clip.randomize(owlvit, np.random.default_rng(1)).float()
    owlvit.save_pretrained(tmp_path)
    tiny_clip.write_tokenizer(tmp_path)
    words = transformers.CLIPTokenizer.from_pretrained(str(tmp_path))
    queries = ["a bad cab", "LIN  lin", "abcdefg", "gin"]
    ids = words(queries, padding="max_length", max_length=9, return_tensors="pt")
    images = np.random.default_rng(0).uniform(size=(2, 33, 24, 3)).astype(np.float32)
    pixels = torch.as_tensor(images).double().permute(0, 3, 1, 2).requires_grad_()
    logits, boxes = make_owlvit.detect(
        owlvit.double(), pixels, ids.input_ids.repeat(2, 1)
    )
    model = read_owlvit(tmp_path, np.dtype(np.float32))
    tokenizer = read_tokenizer(tmp_path, model.config.text.vocab_size)
    for options in (
        dict(),
        dict(kind="both", exclude=True),
        dict(kind="areas", threshold=0.3, areas="plain"),
        dict(kind="both", threshold=0.3, labels="best"),
    ):
        expected = make_owlvit.reward(logits, boxes, **options)
        (gradient,) = torch.autograd.grad(expected.sum(), pixels, retain_graph=True)
        reward = DetectionReward(model, tokenizer, queries, **options)
        actual, ours = value_and_grad(reward, jnp.asarray(images), None)
        np.testing.assert_allclose(actual, expected.detach().numpy(), rtol=1e-4)
        assert relative_error(ours, gradient.permute(0, 2, 3, 1).numpy()) < 1e-3
    # What is published for looking at detections counts the same ones.
    from transformers.models.owlvit import image_processing_pil_owlvit as processing

    processor = processing.OwlViTImageProcessorPil()
    found = processor.post_process_object_detection(
        transformers.modeling_outputs.ModelOutput(logits=logits, pred_boxes=boxes),
        threshold=0.3,
    )
    options = dict(threshold=0.3, labels="best", areas="plain")
    corners = [f["boxes"] for f in found]
    areas = [((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])).sum().item() for b in corners]
    for kind, expected in (
        ("scores", [f["scores"].sum().item() for f in found]),
        ("areas", areas),
    ):
        reward = DetectionReward(model, tokenizer, queries, kind=kind, **options)
        np.testing.assert_allclose(
            score(reward, jnp.asarray(images)), expected, rtol=1e-4
        )


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_images_are_processed_as_transformers_does(transformers):
    """Up to the rounding of its two passes over bytes."""
    from PIL import Image
    from transformers.models.owlvit import image_processing_pil_owlvit as processing

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(64, 192, (6, 5, 3), np.uint8))
    processor = processing.OwlViTImageProcessorPil(size={"height": 20, "width": 20})
    for height, width in ((33, 24), (20, 41), (11, 12)):
        image = coarse.resize((width, height))
        expected = processor(image, return_tensors="np")["pixel_values"][0]
        images = jnp.asarray(np.asarray(image, np.float32) / 255)[None]
        actual = stretch_preprocess(images, 20)[0]
        assert np.abs(actual - expected.transpose(1, 2, 0)).max() < 1.1 / 255 / 0.26
