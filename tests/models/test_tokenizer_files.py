"""Which file of a tokenizer's folder has the last word, and what cannot be followed."""

import json
import random
import warnings

import numpy as np
import pytest

from draftx.models import CLIPTokenizer

from ..goldens import make_tokenizer_files as make


_CONFIG, _MAP, _ADDED = make.CONFIG, make.MAP, make.ADDED


@pytest.fixture(scope="module")
def golden():
    return json.loads(make.GOLDEN.read_text("utf-8"))


@pytest.fixture(scope="module")
def vocabulary():
    with np.load(make.GOLDEN.with_name("tokenizer.npz")) as file:
        return dict(file)


@pytest.fixture
def folder(vocabulary, tmp_path):
    """A folder with the small files that a test asks for."""

    def write(case):
        make.write_folder(tmp_path, case, vocabulary)
        return tmp_path

    return write


def _ids(tokenizer, prompts=make.PROMPTS):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tokenizer(prompts)


def _check(ours, theirs):
    np.testing.assert_array_equal(_ids(ours), theirs["ids"])
    assert ours.pad_token == theirs["special"]["pad_token"]
    assert ours.bos_token == theirs["special"]["bos_token"]
    assert ours.eos_token == theirs["special"]["eos_token"]
    added = {token.content: i for i, token in ours.added_tokens.items()}
    assert added == theirs["added"]


@pytest.mark.parametrize("name", make.CASES)
def test_a_folder_says_what_it_says_to_transformers(name, folder, golden):
    _check(CLIPTokenizer.from_folder(folder(make.CASES[name])), golden[name])


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", make.CASES)
def test_a_folder_says_what_it_says_to_transformers_live(name, folder):
    pytest.importorskip("transformers")
    path = folder(make.CASES[name])
    _check(CLIPTokenizer.from_folder(path), make.theirs(path))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(40))
def test_random_folders_say_what_they_say_to_transformers(seed, folder, tmp_path):
    pytest.importorskip("transformers")
    draw = random.Random(seed)
    some = lambda share: draw.random() < share

    def flagged(content, **fields):
        names = ("lstrip", "normalized", "rstrip", "single_word")
        return make.flagged(content, **{n: some(0.4) for n in names}) | fields

    def special(typed):
        choices = dict(
            bos_token=(make.START, "!"),
            eos_token=(make.END, "?"),
            unk_token=(make.END,),
            pad_token=(make.END, "!", "<pad>"),
            mask_token=("<mask>",),
            image_token=("<img>",),
        )
        drawn = {}
        for name, tokens in choices.items():
            if some(0.6):
                token = draw.choice(tokens)
                drawn[name] = draw.choice([token, flagged(token) | typed])
        return drawn

    words = draw.sample(["<Cat-Toy>", "<b>", "style", "a b"], draw.randint(0, 4))
    ends = {make.START: 1022, make.END: 1023, "!": 0}
    ids = ends | {word: 1024 + i for i, word in enumerate(words)}
    case = {_CONFIG: special({"__type": "AddedToken"})}
    if some(0.2):
        case[_CONFIG]["additional_special_tokens"] = ["<x>", "z"]
    if some(0.3):
        case[_CONFIG]["added_tokens_decoder"] = {
            str(i): flagged(token, special=some(0.5)) for token, i in ids.items()
        }
    if some(0.7):
        case[_MAP] = special({})
    if some(0.5):
        case[_ADDED] = {word: ids[word] for word in words}
    path = folder(case)
    if some(0.3):
        whole = json.loads(_plain(path).to_json())
        later = [flagged(w, special=some(0.3), id=ids[w]) for w in words]
        whole["added_tokens"] += later
        (path / "tokenizer.json").write_text(json.dumps(whole), "utf-8")
    _check(CLIPTokenizer.from_folder(path), make.theirs(path))


def _plain(folder):
    return CLIPTokenizer.from_files(folder / "vocab.json", folder / "merges.txt")


def test_one_file_counts_where_two_are_beside_it(folder):
    path = folder({})
    expected = _ids(CLIPTokenizer.from_folder(path))
    (path / "tokenizer.json").write_text(_plain(path).to_json(), "utf-8")
    merges = (path / "merges.txt").read_text("utf-8").splitlines()
    (path / "merges.txt").write_text("\n".join(merges[:10]), "utf-8")
    np.testing.assert_array_equal(_ids(CLIPTokenizer.from_folder(path)), expected)


def test_words_in_one_file(folder):
    """They are found in `tokenizer.json` alone, as transformers 5 writes it."""
    words = {_ADDED: {"<Cat-Toy>": 1024}}
    two = CLIPTokenizer.from_folder(folder(words))
    path = folder({})
    (path / _ADDED).unlink()
    (path / "tokenizer.json").write_text(two.to_json(), "utf-8")
    assert CLIPTokenizer.from_folder(path) == two
    assert two.vocab_size == 1025


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({_ADDED: {"<a>": 1025}}, "'<a>' is to have 1025, and would get 1024"),
        ({_ADDED: {"<a>": 1024, "<b>": 1026}}, "'<b>' is to have 1026"),
        ({_ADDED: {"<a>": 1023}}, "'<a>' is to have 1023, and would get 1024"),
        ({_ADDED: {"<a>": 1024, "<b>": 1024}}, "'<a>' and '<b>' both have 1024"),
        ({_ADDED: {"cat</w>": 1024}}, "'cat</w>' is to have 1024, and would get"),
        ({_MAP: {"pad_token": None}}, "`pad_token` must name a token; .* say null"),
        ({_CONFIG: {"eos_token": 3}}, "A token must be a string, .* got 3"),
        ({_CONFIG: {"padding_side": "left"}}, "`padding_side` .* 'right'; got 'left'"),
        ({_CONFIG: {"truncation_side": "left"}}, "`truncation_side` .* got 'left'"),
        ({_CONFIG: {"split_special_tokens": True}}, "`split_special_tokens` .* True"),
        (
            {_CONFIG: {"added_tokens_decoder": []}},
            "must hold a JSON object; got a list",
        ),
        ({_CONFIG: {"model_max_length": 1}}, "place for start and end; got 1"),
    ],
)
def test_what_cannot_be_followed_is_named(case, message, folder):
    with pytest.raises(ValueError, match=message):
        CLIPTokenizer.from_folder(folder(case))


def test_padding_of_one_file_is_looked_at(folder):
    path = folder({})
    whole = json.loads(_plain(path).to_json())
    whole["padding"] = {"direction": "Left"}
    (path / "tokenizer.json").write_text(json.dumps(whole), "utf-8")
    with pytest.raises(ValueError, match="`padding_side` .* got 'left'"):
        CLIPTokenizer.from_folder(path)


def test_a_vocabulary_without_byte_pairs_is_named(folder):
    path = folder({})
    (path / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}', "utf-8")
    with pytest.raises(ValueError, match=r"byte pairs, .* its model is 'Unigram'"):
        CLIPTokenizer.from_folder(path)


def test_two_tokens_of_a_vocabulary_with_one_id_are_named(folder):
    path = folder({})
    vocab = json.loads((path / "vocab.json").read_text("utf-8"))
    (path / "vocab.json").write_text(json.dumps(vocab | {"zz": 0}), "utf-8")
    with pytest.raises(ValueError, match="'!' and 'zz' both have 0"):
        CLIPTokenizer.from_folder(path)


def test_a_word_of_several_vectors_is_written_out(folder):
    """In the text, where it is spelled as learned: `maybe_convert_prompt`."""
    plain = CLIPTokenizer.from_folder(folder({}))
    tokenizer = plain.with_word("<Toy>", 3).with_word("<b>")
    tokens = ["<Toy>", "<Toy>_1", "<Toy>_2", "<b>"]
    assert [tokenizer.token_id(t) for t in tokens] == [1024, 1025, 1026, 1027]
    assert tokenizer != plain
    assert tokenizer.with_max_length(9).token_id("<b>") == 1027
    a = _ids(plain, ["a"])[0, 1]
    rows = [
        ("a <Toy> <b>", [a, 1024, 1025, 1026, 1027]),
        ("a<Toy>a", [a, 1024, 1025, 1026, a]),
        ("<Toy> <Toy>", [1024, 1025, 1026, 1024, 1025, 1026]),
        ("<toy> a", [1024, a]),
        ("<B>", [1027]),
    ]
    for (prompt, expected), row in zip(
        rows, _ids(tokenizer, [prompt for prompt, _ in rows]), strict=True
    ):
        row = row[1 : list(row).index(1023)]
        np.testing.assert_array_equal(row, expected, err_msg=prompt)


@pytest.mark.parametrize(
    ("word", "vectors", "message"),
    [
        ("<b>", 1, "the tokenizer has '<b>'\\. Choose another name"),
        ("<B>", 1, "has '<B>', but for the case, as '<b>'"),
        ("cat</w>", 1, "has 'cat</w>'"),
        ("<", 3, "has '<'"),
        ("<c>", 3, "has '<c>_2'"),
        ("<c>", 2, "has '<c>_2'"),
        ("<b>_1", 1, "'<b>' would come to stand for '<b> <b>_1'"),
        ("", 1, "must have letters or signs; got ''"),
        (" \n", 1, "must have letters or signs"),
    ],
)
def test_words_that_cannot_be_added_are_named(word, vectors, message, folder):
    words = {_ADDED: {"<b>": 1024, "<c>_2": 1025}}
    tokenizer = CLIPTokenizer.from_folder(folder(words))
    with pytest.raises(ValueError, match=f"`word` .*{message}"):
        tokenizer.with_word(word, vectors)
