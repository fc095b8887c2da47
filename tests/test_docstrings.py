"""What `help()` shows of everything public: a sentence, and every argument."""

import importlib
import inspect
import pkgutil
import re

import jax
import jax.random as jr
import pytest

import draftx
from draftx.episodes import make_task
from draftx.finetuning import split, value_and_grad
from draftx.lora import add_lora
from draftx.pipeline import prepare

from .io.tiny import random_pipeline, write_tokenizer


def _packages(package):
    yield package
    for module in pkgutil.iter_modules(package.__path__):
        if module.ispkg and not module.name.startswith("_"):
            yield from _packages(
                importlib.import_module(f"{package.__name__}.{module.name}")
            )


def _public():
    """Everything that a package hands on, by the name of its definition."""
    found = {}
    for package in _packages(draftx):
        for name, value in vars(package).items():
            is_ours = getattr(value, "__module__", "").startswith("draftx")
            named = isinstance(getattr(value, "__qualname__", None), str)
            if not name.startswith("_") and is_ours and named:
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


def _methods(cls):
    """What a class defines itself and does not take over: functions and properties."""
    for name, value in vars(cls).items():
        if name.startswith("_") and name != "__call__":
            continue
        is_new = not any(name in vars(base) for base in cls.__mro__[1:])
        if isinstance(value, property):
            if is_new or value.fget.__doc__:
                yield name, value.fget, True
        elif inspect.isfunction(inspect.unwrap(getattr(cls, name))):
            function = inspect.unwrap(getattr(cls, name))
            if is_new or function.__doc__:
                yield name, function, False


_PUBLIC = _public()
_CLASSES = {name: x for name, x in _PUBLIC.items() if inspect.isclass(x)}
_FUNCTIONS = {
    name: inspect.unwrap(x) for name, x in _PUBLIC.items() if not inspect.isclass(x)
}
_METHODS = {
    f"{owner}.{name}": (function, is_property)
    for owner, cls in _CLASSES.items()
    for name, function, is_property in _methods(cls)
}


def _parameters(function):
    own = inspect.signature(function).parameters
    return [name for name in own if name not in ("self", "cls")]


def _arguments(cls):
    """The parameters of a constructor, where there is one."""
    if issubclass(cls, Exception) or inspect.isabstract(cls):
        return []
    # A published file documents its own fields, and a tier is made of its name.
    if cls.__name__.endswith("Config") or issubclass(cls, str):
        return []
    if cls.__init__ is object.__init__ and not hasattr(cls, "_fields"):
        return []
    return _parameters(cls)


def _first_line(text):
    return inspect.cleandoc(text or "").split("\n")[0]


def _is_sentence(text):
    """Whether the first line is one that begins with a verb: third person, singular."""
    line = _first_line(text)
    verb = re.split(r"[ ,:;]", line)[0]
    return line.endswith(".") and re.fullmatch(
        r"[A-Z][a-z]*[a-rt-z]s|Is|Has|Does", verb
    )


def _missing(names, text, pattern):
    text = inspect.cleandoc(text or "")
    return [n for n in names if not re.search(pattern.format(re.escape(n)), text)]


# In a bullet, maybe with others: "- `height`, `width`: Of the images".
_BULLET = r"(?m)^\s*- (?:`\w+`, )*`{}`(?:, `\w+`)*:"


@pytest.mark.parametrize("name", _PUBLIC)
def test_everything_public_has_a_first_line(name):
    assert _first_line(_PUBLIC[name].__doc__).endswith("."), name


@pytest.mark.parametrize("name", _PUBLIC)
def test_first_lines_begin_with_a_verb(name):
    assert _is_sentence(_PUBLIC[name].__doc__), _first_line(_PUBLIC[name].__doc__)


def test_methods_begin_with_a_verb():
    wrong = {
        name: _first_line(function.__doc__)
        for name, (function, is_property) in _METHODS.items()
        if not is_property and not _is_sentence(function.__doc__)
    }
    # A reward's call is what its class says.
    assert {name: x for name, x in wrong.items() if x or "__call__" not in name} == {}


def test_properties_are_sentences():
    of = {name: f for name, (f, is_property) in _METHODS.items() if is_property}
    assert [n for n, f in of.items() if not _first_line(f.__doc__).endswith(".")] == []


@pytest.mark.parametrize("name", _CLASSES)
def test_arguments_of_a_class_are_where_help_shows_them(name):
    cls = _CLASSES[name]
    shown = f"{cls.__doc__}\n\n{inspect.cleandoc(cls.__init__.__doc__ or '')}"
    assert _missing(_arguments(cls), shown, _BULLET) == []


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_parameters_of_a_function_are_named(name):
    function = _FUNCTIONS[name]
    assert _missing(_parameters(function), function.__doc__, "`{}`") == []


def test_parameters_of_methods_are_named():
    """A method of one parameter may speak for itself."""
    wrong = {
        name: _missing(_parameters(function), function.__doc__, "`{}`")
        for name, (function, _) in _METHODS.items()
        if function.__doc__ and len(_parameters(function)) > 1
    }
    assert {name: missing for name, missing in wrong.items() if missing} == {}


def test_it_can_fail():
    def undocumented(image, weight):
        """What an image weighs: `image`.

        - `weight`: In kilograms.
        """

    assert not _is_sentence(undocumented.__doc__)
    assert not _is_sentence("Weighs an image")
    assert _is_sentence("Weighs an image.")
    assert not _is_sentence("Guidance weights of a chain.\n\nMore.")
    assert _missing(["image", "weight"], undocumented.__doc__, _BULLET) == ["image"]
    assert _missing(["images"], undocumented.__doc__, "`{}`") == ["images"]
    assert not _missing(["a", "b"], "- `a`, `b`: Both.", _BULLET)


def test_a_gradient_names_its_parts(tmp_path):
    """Profiles show where time goes: steps, networks, decoder and reward."""
    pipeline = random_pipeline(write_tokenizer(tmp_path / "tokenizer"), short=True)
    pipeline = add_lora(pipeline, rank=2, key=jr.key(0))
    reward, sampling = draftx.rewards.JPEGCompressibility(), draftx.Sampling(2)
    table = draftx.Table.of(["a cat"])
    batch = prepare(pipeline, table, sampling, key=None, latents=None)
    shape = batch.latents.shape
    task = make_task(
        pipeline, reward, table, sampling, shape=shape, memory=draftx.Memory()
    )
    trainable, frozen = split(task)
    gradient = lambda trainable: value_and_grad(
        trainable, frozen, draftx.DRaFT(1), batch
    )
    names = jax.jit(gradient).lower(trainable).as_text(debug_info=True)
    for scope in (
        "draftx.step",
        "draftx.unet",
        "draftx.clip.text",
        "draftx.decode",
        "draftx.vae.decode",
        "draftx.rewards.JPEGCompressibility",
        "draftx.reward",
        "rematted_computation/draftx.step",  # What the backward pass computes again.
        "checkpoint/draftx.step/draftx.unet",  # And its own share.
        "transpose(jvp(draftx.decode))/draftx.vae.decode",
    ):
        assert scope in names, scope
