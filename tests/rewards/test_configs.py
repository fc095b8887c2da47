"""HPSv2 and ImageReward of any size: what says so, and what is said if nothing does."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import draftx
from draftx.io import ModelFileError
from draftx.judges import BertConfig, IMAGE_REWARD, ImageRewardConfig
from draftx.models import CLIPConfig, CLIPVisionConfig, ConfigError

from ..goldens import make_image_reward
from . import tiny_clip


LOAD = draftx.rewards.load
TINY = tiny_clip.clip_config("hpsv2")
# The same model in the words of open_clip.
OPEN_CLIP = {
    "embed_dim": TINY.projection_dim,
    "vision_cfg": {
        "image_size": TINY.vision.image_size,
        "layers": TINY.vision.num_hidden_layers,
        "width": TINY.vision.hidden_size,
        "head_width": TINY.vision.hidden_size // TINY.vision.num_attention_heads,
        "patch_size": TINY.vision.patch_size,
        "mlp_ratio": TINY.vision.intermediate_size / TINY.vision.hidden_size,
        "patch_dropout": 0.5,
        "attentional_pool": False,
    },
    "text_cfg": {
        "context_length": TINY.text.max_position_embeddings,
        "vocab_size": TINY.text.vocab_size,
        "width": TINY.text.hidden_size,
        "heads": TINY.text.num_attention_heads,
        "layers": TINY.text.num_hidden_layers,
        "mlp_ratio": TINY.text.intermediate_size / TINY.text.hidden_size,
        "pool_type": "argmax",
    },
}


@pytest.fixture
def hps(tmp_path):
    files = tiny_clip.write("hpsv2", tmp_path)
    return files["source"], files["tokenizer"]


def _architecture(config):
    """Both rules of the end token find the same place for this vocabulary."""
    return (config.text, config.vision, config.projection_dim)


def test_hpsv2_of_any_size_by_an_object_or_a_file(hps, tmp_path, monkeypatch):
    weights, words = hps
    images = jnp.linspace(0.0, 1.0, 16 * 20 * 3).reshape(1, 16, 20, 3)
    score = lambda reward: np.asarray(reward(images, reward.prepare(["ab c"])))
    with monkeypatch.context() as patch:
        patch.setattr(draftx.rewards.zoo._hps, "VIT_H_14", TINY)
        expected = score(LOAD("hpsv2", weights, tokenizer=words))
    paths = {"open_clip.json": OPEN_CLIP, "clip.json": tiny_clip.config("hpsv2")}
    for name, config in paths.items():
        (tmp_path / name).write_text(json.dumps(config))
    for config in (TINY, *(tmp_path / name for name in paths)):
        reward = LOAD("hpsv2.1", weights, tokenizer=words, config=config)
        assert _architecture(reward.model.config) == _architecture(TINY)
        np.testing.assert_array_equal(score(reward), expected)
    # Without a word, it is what open_clip itself writes beside weights that counts.
    published = {"model_cfg": OPEN_CLIP, "preprocess_cfg": {"mean": [0.5]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(published))
    np.testing.assert_array_equal(
        score(LOAD("hpsv2", weights, tokenizer=words)), expected
    )


def test_hpsv2_of_another_size_says_whose_sizes_it_was_held_against(hps, tmp_path):
    weights, words = hps
    message = "does not fit the CLIPModel of the published weights; no `config` was gi"
    with pytest.raises(ModelFileError, match=message + ".*open_clip_config.json"):
        LOAD("hpsv2", weights, tokenizer=words)
    with pytest.raises(
        ModelFileError, match="CLIPModel of the `config` that was given"
    ):
        LOAD("hpsv2", weights, tokenizer=words, config=CLIPConfig())
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps(OPEN_CLIP | {"embed_dim": 12}))
    with pytest.raises(ModelFileError, match="CLIPModel of '.*open_clip_config.json'"):
        LOAD("hpsv2", weights, tokenizer=words)
    path.write_text(json.dumps(OPEN_CLIP | {"text_cfg": {"hf_model_name": "roberta"}}))
    with pytest.raises(ModelFileError, match="describes no CLIPModel: `hf_model_name`"):
        LOAD("hpsv2", weights, tokenizer=words)


def test_a_config_where_none_is_asked_for(hps, tmp_path):
    weights, words = hps
    for name in ("clip", "pickscore", "owlvit", "resnet50"):
        options = {"owlvit": {"queries": ["a"]}, "resnet50": {"target": 0}}.get(name)
        with pytest.raises(ValueError, match="`config` must be None for '" + name):
            LOAD(name, tmp_path, config=TINY, options=options)
    with pytest.raises(ValueError, match="`config` must be a CLIPConfig or the path"):
        LOAD("hpsv2", weights, tokenizer=words, config=IMAGE_REWARD)
    with pytest.raises(ModelFileError, match="`config` must be a file that exists"):
        LOAD("hpsv2", weights, tokenizer=words, config=tmp_path / "nothing.json")


def test_descriptions_of_open_clip():
    """ViT-H-14 and ViT-B-32-quickgelu, as open_clip has them in `model_configs`."""
    text = {"context_length": 77, "vocab_size": 49408}
    h14 = {
        "embed_dim": 1024,
        "vision_cfg": {
            "image_size": 224,
            "layers": 32,
            "width": 1280,
            "head_width": 80,
            "patch_size": 14,
        },
        "text_cfg": text | {"width": 1024, "heads": 16, "layers": 24},
    }
    assert draftx.judges.open_clip_config(h14) == draftx.io.judges._clip.VIT_H_14
    assert (
        draftx.judges.open_clip_config({"model_cfg": h14})
        == draftx.io.judges._clip.VIT_H_14
    )
    b32 = draftx.judges.open_clip_config(
        {
            "embed_dim": 512,
            "quick_gelu": True,
            "vision_cfg": {"layers": 12, "width": 768, "patch_size": 32},
            "text_cfg": text | {"width": 512, "heads": 8, "layers": 12},
        }
    )
    of_transformers = CLIPConfig.from_dict({"text_config": {}, "vision_config": {}})
    assert _architecture(b32) == _architecture(of_transformers)


@pytest.mark.parametrize(
    ("tower", "field"),
    [
        # Of ViT-B-16-SigLIP, ViT-L-14-CLIPA, coca and RN50.
        ("vision_cfg", {"timm_model_name": "vit_base_patch16_siglip_224"}),
        ("text_cfg", {"hf_tokenizer_name": "bert-base-uncased"}),
        ("text_cfg", {"no_causal_mask": True}),
        ("vision_cfg", {"no_ln_pre": True}),
        ("vision_cfg", {"pool_type": "avg"}),
        ("vision_cfg", {"attentional_pool": True}),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}),
        ("text_cfg", {"norm_kwargs": {"eps": 1e-6}}),
    ],
)
def test_what_draftx_lacks_of_open_clip_is_refused(tower, field):
    config = OPEN_CLIP | {tower: OPEN_CLIP[tower] | field}
    with pytest.raises(
        ConfigError, match=f"`{next(iter(field))}` of `{tower}` must be"
    ):
        draftx.judges.open_clip_config(config)


def test_image_reward_of_any_size(tmp_path):
    with np.load(make_image_reward.PATH) as file:
        golden = dict(file)
    weights = tmp_path / "ImageReward.safetensors"
    save_file(tiny_clip.state_dict(golden), weights)
    pieces = json.loads(make_image_reward.BERT.read_text())["pieces"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", "utf-8")
    vision = CLIPVisionConfig(
        **make_image_reward.VISION, hidden_act="gelu", layer_norm_eps=1e-6
    )
    text = BertConfig(**make_image_reward.TEXT)
    config = ImageRewardConfig(
        text=text, vision=vision, head_widths=make_image_reward.WIDTHS
    )
    reward = LOAD("imagereward", weights, config=config)
    assert reward.model.config == config
    images = jnp.full((1, 20, 20, 3), 0.5)
    assert np.isfinite(reward(images, reward.prepare(["a red fox"])))[0]
    message = "ImageRewardModel of the published weights; there is no med_config.json"
    with pytest.raises(ModelFileError, match=message):
        LOAD("imagereward", weights)
    (tmp_path / "med_config.json").write_text(json.dumps(make_image_reward.TEXT))
    message = "of the published weights, with '.*med_config.json' for its text"
    with pytest.raises(ModelFileError, match=message):
        LOAD("imagereward", weights)
    only_vision = ImageRewardConfig(vision=vision, head_widths=make_image_reward.WIDTHS)
    assert LOAD("imagereward", weights, config=only_vision).model.config == config
    save_file(
        {k: x for k, x in load_file(weights).items() if k != "mlp.layers.2.bias"},
        weights,
    )
    with pytest.raises(ModelFileError, match="the `config` that was given.* 1 missing"):
        LOAD("imagereward", weights, config=config)
