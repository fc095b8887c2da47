"""Published files of rewards: their names and shapes, downloads, errors."""

import gzip
import json

import equinox as eqx
import huggingface_hub
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import draftx
from draftx.io import ModelFileError
from draftx.io.judges._clip import VIT_H_14
from draftx.io.pipeline._components import match_keys
from draftx.judges import CLIPModel, from_open_clip
from draftx.models import CLIPConfig, ConfigError

from ..goldens import make_clip
from . import tiny_clip


LOAD = draftx.rewards.load


def manifest(name):
    data = (make_clip.FOLDER / "manifests" / f"{name}.json.gz").read_bytes()
    return {k: tuple(s) for k, s in json.loads(gzip.decompress(data)).items()}


@pytest.mark.parametrize(
    ("name", "config", "count"),
    [("clip_l14", CLIPConfig(), 590), ("clip_h14", VIT_H_14, 910)],
)
def test_every_published_tensor_has_its_place(name, config, count):
    shapes = manifest(name)
    model = eqx.filter_eval_shape(CLIPModel, config, key=jr.key(0))
    keys = match_keys(model, shapes, name)
    assert sorted(keys.values()) == sorted(shapes)
    assert len(keys) == count


def test_the_names_of_open_clip():
    shapes = manifest("clip_h14_open_clip")
    # Views of one number: as large as the real ones in shape only.
    state = {k: np.broadcast_to(np.float16(0), s) for k, s in shapes.items()}
    converted = {k: x.shape for k, x in from_open_clip(state).items()}
    assert converted == manifest("clip_h14")
    assert len(shapes) == 686


def test_configs_of_published_files():
    """What the files of ViT-L/14 and of PickScore say, defaults left out."""
    h14 = dict(
        projection_dim=1024,
        text_config=dict(
            hidden_act="gelu",
            hidden_size=1024,
            intermediate_size=4096,
            num_attention_heads=16,
            num_hidden_layers=24,
            eos_token_id=2,
        ),
        vision_config=dict(
            hidden_act="gelu",
            hidden_size=1280,
            intermediate_size=5120,
            num_attention_heads=16,
            num_hidden_layers=32,
            patch_size=14,
        ),
    )
    assert CLIPConfig.from_dict(h14) == VIT_H_14
    b32 = CLIPConfig.from_dict({"text_config": {}, "vision_config": {}})
    assert (b32.vision.patch_size, b32.text.hidden_size) == (32, 512)
    assert (b32.projection_dim, b32.eos_token_id) == (512, 49407)
    with pytest.raises(ConfigError, match="`vision_config` must be there"):
        CLIPConfig.from_dict({"text_config": {}})
    for name, field in (
        ("text", {"hidden_act": "relu"}),
        ("vision", {"num_channels": 1}),
    ):
        parts = {"text_config": {}, "vision_config": {}} | {f"{name}_config": field}
        with pytest.raises(ConfigError, match=f"of CLIP's {name} tower must be one of"):
            CLIPConfig.from_dict(parts)
    with pytest.raises(ConfigError, match="`image_size` must be a multiple"):
        CLIPConfig.from_dict({"text_config": {}, "vision_config": {"patch_size": 15}})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that has the tiny files under the names of the published ones."""
    calls = []
    files = {}
    for name in tiny_clip.NAMES:
        tiny_clip.write(name, tmp_path / name)
    for name in ("clip", "pickscore"):
        repo = make_repo(name)
        for file in (tmp_path / name).iterdir():
            files[repo, file.name] = file

    def hf_hub_download(repo_id, filename, *, repo_type, revision):
        assert repo_type is None
        calls.append((repo_id, filename, revision))
        if (repo_id, filename) not in files:
            raise ConnectionError("no route to host\nlong explanation")
        return str(files[repo_id, filename])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(
        draftx.rewards.zoo._hps, "VIT_H_14", tiny_clip.clip_config("hpsv2")
    )
    return calls


def make_repo(name):
    return {
        "clip": "openai/clip-vit-large-patch14",
        "pickscore": "yuvalkirstain/PickScore_v1",
    }[name]


def test_only_what_is_used_is_downloaded(hub):
    reward = LOAD("pickscore", options={"scale": 2.0})
    assert reward.scale == 2.0
    clip, pick = make_repo("clip"), make_repo("pickscore")
    assert [call[:2] for call in hub] == [
        (pick, "config.json"),
        (pick, "model.safetensors"),
        (clip, "vocab.json"),
        (clip, "merges.txt"),
    ]
    # Commits, not branches.
    assert all(len(revision) == 40 for _, _, revision in hub)
    hub.clear()
    LOAD("clip", make_repo("clip"), tokenizer=reward.tokenizer)
    assert hub == [(clip, n, None) for n in ("config.json", "model.safetensors")]


_CLIP_AT = "hf download openai/clip-vit-large-patch14 --revision 32bd64288804"


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        (
            "hpsv2.1",
            (
                "`hf download xswu/HPSv2 --revision 697403c78157",
                " HPS_v2.1_compressed.pt && ",
                _CLIP_AT,
                " vocab.json merges.txt`",
            ),
        ),
        (
            "aesthetic",
            (
                "`hf download trl-lib/ddpo-aesthetic-predictor --revision cf4bd1034561",
                " aesthetic-model.pth && ",
                _CLIP_AT,
                " config.json model.safetensors`",
            ),
        ),
    ],
)
def test_without_a_connection_the_error_says_what_to_do(hub, name, commands):
    with pytest.raises(ModelFileError) as caught:
        LOAD(name)
    text = str(caught.value)
    assert "(ConnectionError: no route to host)" in text
    assert all(part in text for part in commands)
    assert "\n" not in text


def test_names_and_paths_error_text(tmp_path):
    with pytest.raises(
        ValueError, match="`name` must be one of 'clip', 'picks.* got 'clop'"
    ):
        LOAD("clop")
    with pytest.raises(ValueError, match="Say which reward it is: `load\\("):
        LOAD("openai/clip-vit-base-patch32")
    with pytest.raises(ValueError, match="`clip` must be None for 'hpsv2'"):
        LOAD("hpsv2", clip=tmp_path)
    with pytest.raises(ValueError, match="`tokenizer` must be None for 'aesthetic'"):
        LOAD("aesthetic", tokenizer=tmp_path)
    with pytest.raises(ModelFileError, match="'clip' must be a file or folder that"):
        LOAD("clip", tmp_path / "nothing")
    with pytest.raises(ModelFileError, match="'hpsv2' must be a single file"):
        LOAD("hpsv2", tmp_path)


def test_files_of_another_family_are_refused(hub, tmp_path):
    clip, hps = tmp_path / "clip", tmp_path / "hpsv2"
    with pytest.raises(ModelFileError, match="names of open_clip.* names of transform"):
        LOAD("hpsv2", clip / "model.safetensors", tokenizer=clip)
    with pytest.raises(ModelFileError, match="predictor's 10 tensors.* it holds 62"):
        LOAD("aesthetic", hps / "HPS.safetensors", clip=clip)
    (clip / "model.safetensors").write_bytes((hps / "HPS.safetensors").read_bytes())
    with pytest.raises(ModelFileError, match="does not fit the CLIPModel.* missing"):
        LOAD("clip", clip)
    text = {"architectures": ["CLIPTextModel"]}
    (clip / "config.json").write_text(json.dumps(text))
    with pytest.raises(ModelFileError, match="must describe a CLIPModel"):
        LOAD("clip", clip)
    folder = tmp_path / "pickscore"
    (folder / "vocab.json").write_text("{}")
    with pytest.raises(ModelFileError, match="holds no CLIP tokenizer"):
        LOAD("pickscore", folder)


def test_damaged_files(hub, tmp_path):
    clip, hps = tmp_path / "clip", tmp_path / "hpsv2" / "HPS.safetensors"
    state = load_file(hps)
    save_file(state | {"visual.proj": state["visual.proj"] * np.float32("nan")}, hps)
    with pytest.raises(ModelFileError, match="must hold finite weights"):
        LOAD("hpsv2", hps, tokenizer=clip)
    save_file(
        {k: x for k, x in state.items() if "2.ln_1" not in k and k != "visual.proj"},
        hps,
    )
    with pytest.raises(ModelFileError, match="1 missing: visual_projection.weight"):
        LOAD("hpsv2", hps, tokenizer=clip)
    for path, name in ((clip / "model.safetensors", "clip"), (hps, "hpsv2")):
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ModelFileError, match="damaged or only partly there"):
            LOAD(name, clip if name == "clip" else hps, tokenizer=clip)
    torch_file = hps.with_suffix(".pt")
    torch_file.write_bytes(b"PK\x03\x04 the beginning of an archive")
    with pytest.raises(ModelFileError, match="damaged or only partly there"):
        LOAD("hpsv2", torch_file, tokenizer=clip)


def test_half_precision_files_are_read_in_float32(hub, tmp_path):
    hps = tmp_path / "hpsv2" / "HPS.safetensors"
    state = load_file(hps)
    save_file({k: x.astype(np.float16) for k, x in state.items()}, hps)
    reward = LOAD("hpsv2", hps, tokenizer=tmp_path / "hpsv2")
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(reward))
    expected = state["visual.proj"].astype(np.float16).T.astype(np.float32)
    np.testing.assert_array_equal(reward.model.visual_projection.weight, expected)
