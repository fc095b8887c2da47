"""HPSv2 reads prompts as open_clip does, id for id."""

import gzip
import json
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import draftx
from draftx.models import CLIPTokenizer

from ..goldens import make_open_clip_tokenizer as make
from . import tiny_clip


@pytest.fixture(scope="module")
def golden():
    with np.load(tiny_clip.make_clip.FOLDER / "open_clip_tokenizer.npz") as file:
        return dict(file)


def _tokenizer(folder, vocab, merges):
    (folder / "vocab.json").write_text(vocab)
    (folder / "merges.txt").write_text(merges)
    return CLIPTokenizer.from_folder(folder)


@pytest.fixture
def tokenizer(golden, tmp_path):
    return _tokenizer(tmp_path, str(golden["vocab"]), str(golden["merges"]))


def _ids(tokenizer, prompts):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A prompt has .* tokens")
        return tokenizer(prompts)


def test_ids_are_those_of_open_clip(golden, tokenizer):
    prompts = json.loads(str(golden["prompts"]))
    assert len(prompts) == len(make.PROMPTS) > 30
    for prompt, ids, expected in zip(
        prompts,
        _ids(draftx.judges.OpenCLIPTokenizer(tokenizer), prompts),
        golden["ids"],
        strict=True,
    ):
        np.testing.assert_array_equal(ids, expected, err_msg=repr(prompt))


@pytest.mark.parametrize(
    ("prompt", "means"),
    [
        ("the dog\u2019s ball", "the dog's ball"),
        ("cats &amp; dogs", "cats & dogs"),
        ("cats &amp;amp; dogs", "cats & dogs"),
        ("cafÃ©", "caf\u00e9"),
        ("\ufb01sh", "fish"),
        ("\uff26\uff55\uff4c\uff4c", "full"),
        ("\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03bf\u03c2"),
    ],
)
def test_text_is_repaired_first(tokenizer, prompt, means):
    read = draftx.judges.OpenCLIPTokenizer(tokenizer)
    np.testing.assert_array_equal(read([prompt]), read([means]))
    # For transformers, and so for CLIPScore and PickScore, they are two texts.
    assert np.any(tokenizer([prompt]) != tokenizer([means]))


def test_a_row_is_start_text_end_and_zeros(tokenizer):
    read = draftx.judges.OpenCLIPTokenizer(tokenizer.with_max_length(6))
    end = tokenizer.vocab_size - 1
    short = read(["a"])[0]
    assert [short[0], short[2]] == [end - 1, end]
    np.testing.assert_array_equal(short[3:], 0)
    with pytest.warns(UserWarning, match="has 7 tokens and .* takes 6; .* lost: 'd'"):
        cut = read(["A &amp; b d"[:-2] + " c d"])[0]
    np.testing.assert_array_equal(cut, read(["a & b c"])[0])
    assert cut[-1] == end


def test_equal_ones_are_equal(golden, tokenizer, tmp_path):
    (tmp_path / "again").mkdir()
    again = _tokenizer(tmp_path / "again", str(golden["vocab"]), str(golden["merges"]))
    first, second = (
        draftx.judges.OpenCLIPTokenizer(tokenizer),
        draftx.judges.OpenCLIPTokenizer(again),
    )
    assert first == second
    assert hash(first) == hash(second)
    assert first != draftx.judges.OpenCLIPTokenizer(again.with_max_length(6))
    assert first != tokenizer


def test_hpsv2_scores_by_these_ids(tmp_path, monkeypatch):
    reward = tiny_clip.load("hpsv2", tmp_path, monkeypatch)
    images = jnp.linspace(0.0, 1.0, 2 * 16 * 16 * 3).reshape(2, 16, 16, 3)
    score = lambda prompt: np.asarray(reward(images, reward.prepare([prompt] * 2)))
    np.testing.assert_array_equal(score("ab &#100; c"), score("ab d c"))
    np.testing.assert_array_equal(score("\uff41\uff42 d c"), score("ab d c"))
    assert np.all(score("ab d c") != score("ab e c"))


@pytest.mark.oracle
@pytest.mark.skipif(make.find_open_clip() is None, reason="needs open_clip_torch")
def test_the_published_vocabulary(tmp_path):
    folder = make.find_open_clip()
    theirs = make.open_clip_tokenizer(folder)
    lines = gzip.decompress((folder / "bpe_simple_vocab_16e6.txt.gz").read_bytes())
    merges = "\n".join(lines.decode().split("\n")[1 : 49152 - 256 - 2 + 1])
    vocab = json.dumps(make.vocabulary(theirs))
    ours = draftx.judges.OpenCLIPTokenizer(
        _tokenizer(tmp_path, vocab, "#version: 0.2\n" + merges)
    )
    assert ours.vocab_size == 49408
    prompts = list(make.PROMPTS)
    np.testing.assert_array_equal(_ids(ours, prompts), theirs(prompts).numpy())
