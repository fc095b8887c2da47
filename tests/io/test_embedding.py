"""Learned words: their files, and the pipeline that knows them, saved and loaded."""

import json
import pickle
import shutil

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import save_file

import draftx
from draftx import load, load_embedding, save
from draftx.io import ModelFileError
from draftx.io.pipeline._configs import config_dict
from draftx.lora import iter_lora
from draftx.models import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..helpers import relative_error
from .test_pickle import contiguous, parameter_dict, write_zip
from .tiny import assert_equal, random_lora, random_model


WIDTH = 12
PROMPTS = ["a <toy> cat", "<one><one>", "do style", "a <Toy>, Style!"]


def vectors(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def write_diffusers(path, word, array):
    save_file({word: array}, path)


def write_diffusers_pickle(path, word, array):
    write_zip(path, {word: contiguous(array)})


def write_web_ui(path, word, array):
    """As AUTOMATIC1111's web UI saves a word after training."""
    tree = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": contiguous(array)},
        "name": word,
        "step": 500,
        "sd_checkpoint": None,
        "sd_checkpoint_name": "model",
    }
    write_zip(path, tree)


def taught(pipeline, folder):
    """A pipeline that knows words of three, one and two vectors."""
    write_diffusers(folder / "learned_embeds.safetensors", "<toy>", vectors(3, WIDTH))
    write_diffusers_pickle(folder / "one.bin", "<one>", vectors(WIDTH, seed=1))
    write_web_ui(folder / "style.pt", "style", vectors(2, WIDTH, seed=2))
    for name in ("", "one.bin", "style.pt"):
        pipeline = load_embedding(pipeline, folder / name)
    return pipeline


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_diffusers, "x.safetensors"),
        (write_diffusers_pickle, "learned_embeds.bin"),
        (write_web_ui, "x.pt"),
    ],
)
@pytest.mark.parametrize("shape", [(WIDTH,), (1, WIDTH), (3, WIDTH)])
def test_a_word_is_read_from_every_file(write, name, shape, pipeline, tmp_path):
    array = vectors(*shape)
    write(tmp_path / name, "<toy>", array)
    new = load_embedding(pipeline, tmp_path / name)
    old, embedding = (p.text_encoder.token_embedding for p in (pipeline, new))
    count = len(old)
    np.testing.assert_array_equal(embedding[:count], old)
    np.testing.assert_array_equal(embedding[count:], array.reshape(-1, WIDTH))
    assert new.text_encoder.config.vocab_size == new.tokenizer.vocab_size
    ids = np.asarray(new.tokenize(["<toy>"]))[0]
    tokens = list(range(count, len(embedding)))
    assert ids.tolist()[1 : 1 + len(tokens)] == tokens
    assert ids[1 + len(tokens)] == new.tokenizer.token_id("<|endoftext|>")


def test_a_word_without_a_name_needs_one(pipeline, tmp_path):
    path = tmp_path / "word.safetensors"
    save_file({"emb_params": vectors(2, WIDTH)}, path)
    with pytest.raises(ModelFileError, match="does not say what its word is called"):
        load_embedding(pipeline, path)
    new = load_embedding(pipeline, path, token="<w>")
    assert new.tokenizer.token_id("<w>_1") == pipeline.tokenizer.vocab_size + 1


def test_a_word_may_have_another_name(pipeline, tmp_path):
    write_diffusers(tmp_path / "x.safetensors", "<toy>", vectors(WIDTH))
    new = load_embedding(pipeline, tmp_path / "x.safetensors", "<other>")
    assert new.tokenizer.token_id("<toy>") is None
    assert new.tokenizer.token_id("<other>") is not None


def test_precision_is_that_of_the_model(pipeline, tmp_path):
    half = eqx.tree_at(
        lambda p: p.text_encoder.token_embedding,
        pipeline,
        pipeline.text_encoder.token_embedding.astype(jnp.bfloat16),
    )
    write_diffusers(tmp_path / "x.safetensors", "<toy>", vectors(WIDTH))
    embedding = load_embedding(half, tmp_path / "x.safetensors").text_encoder
    assert embedding.token_embedding.dtype == jnp.bfloat16
    save_file({"<toy>": np.zeros(WIDTH, np.int32)}, tmp_path / "y.safetensors")
    with pytest.raises(ModelFileError, match="must hold weights in one of"):
        load_embedding(pipeline, tmp_path / "y.safetensors")


def test_rows_that_no_token_has_are_used(pipeline, tmp_path):
    """An embedding may be padded to a round number of rows."""
    count = pipeline.tokenizer.vocab_size
    rows = jnp.asarray(vectors(5, WIDTH, seed=3))
    padded = eqx.tree_at(
        lambda p: p.text_encoder, pipeline, pipeline.text_encoder.with_rows(count, rows)
    )
    save(padded, tmp_path / "model")
    assert_equal(load(tmp_path / "model"), padded)
    array = vectors(2, WIDTH)
    write_diffusers(tmp_path / "x.safetensors", "<toy>", array)
    new = load_embedding(padded, tmp_path / "x.safetensors")
    expected = np.concatenate([array, rows[2:]])
    np.testing.assert_array_equal(
        new.text_encoder.token_embedding[count:], expected.astype(np.float32)
    )


def test_an_adapter_and_all_else_are_kept(pipeline, tmp_path):
    adapted = random_lora(pipeline, targets=("to_k", "q_proj"))
    new = taught(adapted, tmp_path)
    assert {name for name, _ in iter_lora(new)} == {n for n, _ in iter_lora(adapted)}
    ids = adapted.tokenize(["a cat"])
    np.testing.assert_array_equal(new.tokenize(["a cat"]), ids)
    assert_equal(new.text_encoder.layers, adapted.text_encoder.layers)
    assert_equal(new.unet, adapted.unet)


def test_words_are_saved_and_loaded(pipeline, tmp_path):
    new = taught(pipeline, tmp_path)
    save(new, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert_equal(loaded, new)
    np.testing.assert_array_equal(loaded.tokenize(PROMPTS), new.tokenize(PROMPTS))
    count = pipeline.tokenizer.vocab_size
    words = ["<toy>", "<toy>_1", "<toy>_2", "<one>", "style", "style_1"]
    ids = {word: count + i for i, word in enumerate(words)}
    # What transformers before 4.34 reads.
    tokenizer = tmp_path / "model/tokenizer"
    assert json.loads((tokenizer / "added_tokens.json").read_text()) == ids
    vocab = json.loads((tokenizer / "vocab.json").read_text("utf-8"))
    assert not set(words) & set(vocab)
    config = json.loads((tmp_path / "model/text_encoder/config.json").read_text())
    assert config["vocab_size"] == count + len(words)
    assert config["eos_token_id"] == new.tokenizer.token_id("<|endoftext|>")
    # And files of then, which have no list in the config.
    path = tokenizer / "tokenizer_config.json"
    fields = json.loads(path.read_text())
    del fields["added_tokens_decoder"]
    path.write_text(json.dumps(fields))
    assert_equal(load(tmp_path / "model"), new)


def test_padding_and_flags_are_saved_and_loaded(pipeline, tmp_path):
    save(pipeline, tmp_path / "model")
    folder = tmp_path / "model/tokenizer"
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 9}')
    ends = {"content": "<|endoftext|>", "normalized": True, "lstrip": True}
    special = {"pad_token": "!", "eos_token": ends, "unk_token": ends}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    loaded = load(tmp_path / "model")
    assert loaded.tokenize(["a"]).tolist()[0][3:] == [0] * 6
    save(loaded, tmp_path / "again")
    assert load(tmp_path / "again").tokenizer == loaded.tokenizer


def test_words_without_rows_are_named(pipeline, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    save(taught(pipeline, tmp_path), tmp_path / "taught")
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(tmp_path / "taught/tokenizer", folder / "tokenizer")
    count = pipeline.tokenizer.vocab_size
    text = rf"has {count} rows; .* no row: '<toy>' \({count}\), .* and 1 more"
    with pytest.raises(ModelFileError, match=text):
        load(folder)


def test_a_word_draws(short_pipeline, tmp_path):
    """Without it, the two prompts would be the same image."""
    write_diffusers(tmp_path / "x.safetensors", "<toy>", 10 * vectors(2, WIDTH))
    new = load_embedding(short_pipeline, tmp_path / "x.safetensors")
    latents = np.broadcast_to(vectors(1, 8, 8, 4), (2, 8, 8, 4))
    sampling = draftx.Sampling(1, guidance_scale=1)
    word, none = draftx.sample(new, ["a <toy>", "a"], sampling, latents=latents)
    assert np.abs(word - none).max() > 1e-4


@pytest.mark.slow
def test_a_word_trains(short_pipeline, tmp_path):
    write_diffusers(tmp_path / "x.safetensors", "<toy>", vectors(2, WIDTH))
    new = load_embedding(short_pipeline, tmp_path / "x.safetensors")
    result = draftx.finetune(
        draftx.add_lora(new, rank=1, key=jr.key(0)),
        lambda images, _: jnp.mean(images, (1, 2, 3)),
        ["a <toy>"],
        draftx.Sampling(1, guidance_scale=1),
        method=draftx.DRaFT(1),
        num_train_steps=1,
        batch_size=1,
        key=jr.key(0),
    )
    assert result.pipeline.tokenizer == new.tokenizer
    assert_equal(result.pipeline.text_encoder, new.text_encoder)


def test_the_ends_are_not_the_last_rows_of_a_larger_embedding():
    """Of a text encoder that is saved alone, without the tokenizer that knows."""
    config = CLIPTextConfig(
        vocab_size=49408 + 3,
        hidden_size=2,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    rng = np.random.default_rng(0)
    written = config_dict(random_model(CLIPTextModel, config, rng))
    assert (written["bos_token_id"], written["eos_token_id"]) == (49406, 49407)
    assert written["vocab_size"] == 49411


@pytest.mark.parametrize(
    ("tensors", "token", "message"),
    [
        (
            {"clip_l": (2, 768), "clip_g": (2, 1280)},
            "<a>",
            "words of SDXL do: .*clip_g",
        ),
        ({"clip_l": (2, WIDTH)}, "<a>", "SDXL do: clip_l"),
        ({"<a>": (768,)}, None, r"vectors of 12 numbers.*\(768,\).*2\.x 1024"),
        ({"<a>": (1, 1, WIDTH)}, None, r"the shape \(1, 1, 12\)"),
        ({"<a>": (0, WIDTH)}, None, r"the shape \(0, 12\)"),
        ({"<a>": ()}, None, r"the shape \(\)"),
        ({"<a>": (WIDTH,), "<b>": (WIDTH,)}, None, "one learned word: .* 2 tensors"),
    ],
)
def test_files_that_hold_no_word(tensors, token, message, pipeline, tmp_path):
    arrays = {key: np.zeros(shape, np.float32) for key, shape in tensors.items()}
    save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match=message):
        load_embedding(pipeline, tmp_path / "x.safetensors", token)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("<|endoftext|>", "has '<\\|endoftext\\|>'"),
        ("ca", "has 'ca'. Choose another name"),
        ("<TOY>", "has '<TOY>', but for the case, as '<toy>'"),
        ("<toy>_1", "has '<toy>_1'"),
        ("<one>_1", "'<one>' would come to stand for '<one> <one>_1'"),
        ("", "letters or signs"),
        (3, "must be a string or None; got 3"),
    ],
)
@pytest.mark.usefixtures("without_types")
def test_a_word_that_is_there_is_refused(token, message, pipeline, tmp_path):
    new = taught(pipeline, tmp_path)
    with pytest.raises(ValueError, match=f"`token` .*{message}"):
        load_embedding(new, tmp_path / "one.bin", token)
    with pytest.raises(ValueError, match="the tokenizer has '<one>'"):
        load_embedding(new, tmp_path / "one.bin")


def test_paths_that_are_no_file(pipeline, tmp_path):
    with pytest.raises(ModelFileError, match="'.*x.pt' does not exist"):
        load_embedding(pipeline, tmp_path / "x.pt")
    with pytest.raises(ModelFileError, match="learned_embeds.bin; .* has neither"):
        load_embedding(pipeline, tmp_path)


def test_a_word_given_as_a_model(tmp_path):
    path = tmp_path / "learned_embeds.safetensors"
    write_diffusers(path, "<toy>", vectors(WIDTH))
    for source in (path, tmp_path):
        with pytest.raises(ModelFileError, match=r"is a learned word.*load_embedding"):
            load(source)


def test_a_word_of_the_first_files_is_read(pipeline, tmp_path):
    """Those of the authors' code, whose vectors are in a `ParameterDict`."""
    array = vectors(2, WIDTH)
    tree = {"string_to_token": {"*": 265}, "name": "<toy>"}
    tree["string_to_param"] = parameter_dict({"*": contiguous(array)})
    write_zip(tmp_path / "x.pt", tree)
    new = load_embedding(pipeline, tmp_path / "x.pt")
    embedding = new.text_encoder.token_embedding
    np.testing.assert_array_equal(embedding[-2:], array)
    assert new.tokenizer.token_id("<toy>") == len(embedding) - 2


@pytest.mark.oracle
def test_a_parameter_dict_of_pytorch(pipeline, tmp_path):
    torch = pytest.importorskip("torch")
    array = vectors(2, WIDTH)
    words = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.from_numpy(array))})
    old = {"string_to_param": words, "string_to_token": {"*": torch.tensor(265)}}
    # The token is a tensor too, in files of the authors' code.
    for legacy in (False, True):
        path = tmp_path / "x.pt"
        torch.save(old, path, _use_new_zipfile_serialization=not legacy)
        new = load_embedding(pipeline, path, token="<toy>")
        embedding = new.text_encoder.token_embedding
        np.testing.assert_array_equal(embedding[-2:], array)
    # What an error says to do with a file that is not read.
    torch.save({"<word>": old["string_to_param"]["*"]}, path)
    new = load_embedding(pipeline, path)
    np.testing.assert_array_equal(new.text_encoder.token_embedding[-2:], array)


def test_nothing_in_a_pickle_is_run(pipeline, tmp_path):
    class Call:
        def __reduce__(self):
            return eval, ("1/0",)

    write_zip(tmp_path / "x.pt", None, pickled=pickle.dumps({"<a>": Call()}, 2))
    with pytest.raises(ModelFileError, match="which was not run"):
        load_embedding(pipeline, tmp_path / "x.pt")


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_words_are_those_of_diffusers(pipeline, saved, tmp_path):
    """The same ids, embeddings and images, and the same folder in both directions."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    new = taught(pipeline, tmp_path)
    # The same words as PyTorch writes them.
    one, style = (
        torch.nn.Parameter(torch.from_numpy(vectors(*shape, seed=seed)))
        for shape, seed in (((WIDTH,), 1), ((2, WIDTH), 2))
    )
    torch.save({"<one>": one.detach()}, tmp_path / "one.bin")
    both = {"string_to_param": {"*": style}, "name": "style", "step": 1}
    torch.save(both | {"string_to_token": {"*": 265}}, tmp_path / "style.pt")
    read = pipeline
    for name in ("", "one.bin", "style.pt"):
        read = load_embedding(read, tmp_path / name)
    assert_equal(read, new)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(saved))
    pipe.load_textual_inversion(str(tmp_path))
    for name in ("one.bin", "style.pt"):
        pipe.load_textual_inversion(str(tmp_path), weight_name=name)
    save(new, tmp_path / "ours")
    pipe.save_pretrained(tmp_path / "theirs")
    again = diffusers.StableDiffusionPipeline.from_pretrained(str(tmp_path / "ours"))
    for theirs, ours in ((pipe, new), (again, load(tmp_path / "theirs"))):
        written = theirs.maybe_convert_prompt(PROMPTS, theirs.tokenizer)
        ids = theirs.tokenizer(
            written, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        np.testing.assert_array_equal(ours.tokenize(PROMPTS), ids.numpy())
        with torch.no_grad():
            hidden = theirs.text_encoder(ids).last_hidden_state.numpy()
        assert relative_error(ours.embed(ours.tokenize(PROMPTS)), hidden) < 1e-4
    config = again.text_encoder.config
    assert config.eos_token_id == new.tokenizer.token_id("<|endoftext|>")
    latents = vectors(len(PROMPTS), 4, 8, 8)
    images = pipe(
        PROMPTS,
        num_inference_steps=3,
        guidance_scale=3.0,
        latents=torch.from_numpy(latents),
        output_type="np",
    ).images
    ours = draftx.sample(
        new,
        PROMPTS,
        draftx.Sampling(3, guidance_scale=3.0),
        latents=np.moveaxis(latents, 1, -1),
    )
    assert relative_error(ours, images) < 1e-3


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_a_saved_tokenizer_is_the_same_to_transformers(tmp_path, pipeline):
    transformers = pytest.importorskip("transformers")
    new = taught(pipeline, tmp_path)
    save(new, tmp_path / "model")
    folder = tmp_path / "model/tokenizer"
    prompts = ["a <toy> <TOY>_1, <one>x Style", "<|ENDOFTEXT|> a <|endoftext|>"]
    expected = new.tokenizer._tokenizer.encode_batch(prompts)
    lists = [encoding.ids for encoding in expected]
    assert (
        transformers.CLIPTokenizer.from_pretrained(folder)(prompts).input_ids == lists
    )
    # As a version before 4.34 reads it: no list in the config.
    fields = json.loads((folder / "tokenizer_config.json").read_text())
    del fields["added_tokens_decoder"]
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    old = transformers.CLIPTokenizer.from_pretrained(folder)
    assert old(prompts).input_ids == lists
    old.save_pretrained(tmp_path / "saved")
    assert CLIPTokenizer.from_folder(tmp_path / "saved") == new.tokenizer
