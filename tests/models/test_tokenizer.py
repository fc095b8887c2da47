"""The tokenizer against transformers' ids, and what it says to bad prompts."""

import json
import pathlib
import warnings

import numpy as np
import pytest
from tokenizers import Tokenizer

from draftx._table import check_prompts
from draftx.models import CLIPTokenizer

from ..goldens import make_tokenizer


_GOLDEN = pathlib.Path(make_tokenizer.__file__).with_name("tokenizer.npz")
_LENGTH = make_tokenizer.MAX_LENGTH


@pytest.fixture(scope="module")
def golden():
    with np.load(_GOLDEN) as file:
        return dict(file)


@pytest.fixture
def folder(golden, tmp_path):
    """A published tokenizer folder."""
    _write(tmp_path, "vocab.json", str(golden["vocab"]))
    _write(tmp_path, "merges.txt", str(golden["merges"]))
    config = {"model_max_length": _LENGTH, "pad_token": "<|endoftext|>"}
    _write(tmp_path, "tokenizer_config.json", json.dumps(config))
    return tmp_path


def _write(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8", newline="\n")


def _ids(tokenizer, prompts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tokenizer(prompts)


@pytest.mark.parametrize("pad_token", ["<|endoftext|>", "!"])
def test_ids_are_those_of_transformers(pad_token, golden, folder):
    expected = golden["ids_exclamation" if pad_token == "!" else "ids"]
    config = {"model_max_length": _LENGTH, "pad_token": pad_token}
    _write(folder, "tokenizer_config.json", json.dumps(config))
    tokenizer = CLIPTokenizer.from_folder(folder)
    assert tokenizer.max_length == _LENGTH
    prompts = json.loads(str(golden["prompts"]))
    actual = _ids(tokenizer, prompts)
    assert actual.dtype == np.int32
    for prompt, row, expected_row in zip(prompts, actual, expected, strict=True):
        np.testing.assert_array_equal(row, expected_row, err_msg=repr(prompt[:60]))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_ids_are_those_of_transformers_live(folder):
    pytest.importorskip("transformers")
    theirs = make_tokenizer.transformers_tokenizer(folder)
    ours = CLIPTokenizer.from_folder(folder)
    # Any characters at all, in words of any length; a few fixed seeds.
    rng = np.random.default_rng(0)
    pool = [*range(0x20, 0x250), *range(0x300, 0x370), *range(0x1F600, 0x1F650), 0x200D]
    prompts = [
        "".join(chr(c) for c in rng.choice(pool, size=rng.integers(1, 40)))
        for _ in range(300)
    ]
    prompts += make_tokenizer.PROMPTS
    np.testing.assert_array_equal(
        _ids(ours, prompts), make_tokenizer.ids(theirs, prompts)
    )


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_reads_the_file_that_transformers_writes(folder, tmp_path_factory):
    pytest.importorskip("transformers")
    saved = tmp_path_factory.mktemp("saved")
    theirs = make_tokenizer.transformers_tokenizer(folder)
    theirs.save_pretrained(saved)
    for name in ("vocab.json", "merges.txt"):
        (saved / name).unlink(missing_ok=True)
    prompts = make_tokenizer.PROMPTS
    ours = CLIPTokenizer.from_folder(saved)
    np.testing.assert_array_equal(
        _ids(ours, prompts), make_tokenizer.ids(theirs, prompts)
    )


@pytest.mark.parametrize(
    ("prompt", "lost"), [("a cat \U0001f600", "\U0001f600"), ("a a a cat", "a cat")]
)
def test_what_is_cut_off_is_named(folder, prompt, lost):
    """By who cuts it, which is not the text encoder; a half letter is lost whole."""
    short = CLIPTokenizer.from_folder(folder).with_max_length(4)
    text = f"the tokenizer takes 4; this part is lost: {lost!r}"
    with pytest.warns(UserWarning, match=text):
        short([prompt])


def test_one_file_is_as_good_as_two(golden, folder, tmp_path_factory):
    two = CLIPTokenizer.from_folder(folder)
    one_file = tmp_path_factory.mktemp("one_file")
    _write(one_file, "tokenizer.json", two.to_json())
    _write(one_file, "tokenizer_config.json", f'{{"model_max_length": {_LENGTH}}}')
    one = CLIPTokenizer.from_folder(one_file)
    prompts = json.loads(str(golden["prompts"]))
    np.testing.assert_array_equal(_ids(one, prompts), _ids(two, prompts))
    assert one == two
    assert hash(one) == hash(two)
    assert one.vocab_size == two.vocab_size == len(json.loads(str(golden["vocab"])))


def test_equality_is_by_content(folder):
    one, other = CLIPTokenizer.from_folder(folder), CLIPTokenizer.from_folder(folder)
    assert one == other
    assert len({one, other}) == 1
    files = folder / "vocab.json", folder / "merges.txt"
    assert one != CLIPTokenizer.from_files(*files, max_length=77)
    assert one != CLIPTokenizer.from_files(*files, max_length=_LENGTH, pad_token="!")
    assert one != "a tokenizer"


@pytest.mark.parametrize("length", [None, int(1e30)])
def test_length_without_a_limit_is_77(length, folder):
    _write(folder, "tokenizer_config.json", json.dumps({"model_max_length": length}))
    assert CLIPTokenizer.from_folder(folder)(["a cat"]).shape == (1, 77)


def test_padding_may_be_named_as_an_object(folder):
    (folder / "tokenizer_config.json").unlink()
    special = {"pad_token": {"content": "!", "lstrip": False}}
    _write(folder, "special_tokens_map.json", json.dumps(special))
    assert CLIPTokenizer.from_folder(folder).pad_token == "!"


def test_warning_names_what_is_lost(folder):
    tokenizer = CLIPTokenizer.from_folder(folder)
    fits = " ".join(["cat"] * (_LENGTH - 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (whole,) = tokenizer([fits])
    text = rf"has {_LENGTH + 2} tokens .* takes {_LENGTH}; .* lost: 'red dog'\."
    with pytest.warns(UserWarning, match=text):
        (cut,) = tokenizer([f"{fits}  red dog "])
    np.testing.assert_array_equal(cut, whole)


def test_lone_surrogate_is_a_question_mark(folder):
    tokenizer = CLIPTokenizer.from_folder(folder)
    actual = tokenizer(["a \ud83d cat", "\udc31"])
    np.testing.assert_array_equal(actual, tokenizer(["a ? cat", "?"]))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="`folder` must hold `vocab.json`"):
        CLIPTokenizer.from_folder(tmp_path)


def test_missing_padding_token_is_named(folder):
    tokenizer = Tokenizer.from_str(CLIPTokenizer.from_folder(folder).to_json())
    with pytest.raises(ValueError, match="`tokenizer` must have the token '<pad>'"):
        CLIPTokenizer(tokenizer, max_length=_LENGTH, pad_token="<pad>")


@pytest.mark.parametrize(
    ("prompts", "text"),
    [
        ("a cat", "`prompts` must be a list of strings; got 'a cat'. Put a single"),
        (None, "`prompts` must be a list of strings; got None"),
        (iter(["a cat"]), "`prompts` must be a list of strings; got <list_iterator"),
        ([], "`prompts` must hold at least one prompt; got an empty list"),
        (["a cat", 3], "`prompts` must hold only strings; got 3 of type int"),
        ([b"a cat"], "`prompts` must hold only strings; got b'a cat' of type bytes"),
    ],
)
def test_bad_prompts_are_named(prompts, text):
    with pytest.raises(ValueError, match=text):
        check_prompts(prompts)


def test_prompts_may_have_another_name():
    with pytest.raises(ValueError, match="`negative_prompts` must hold at least one"):
        check_prompts([], "negative_prompts")
    check_prompts(("a cat",))
