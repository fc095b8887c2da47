"""How wide the interfaces are: parameters counted, and the places of a default."""

import ast
import pathlib

import pytest


_ROOT = pathlib.Path(__file__).parent.parent / "draftx"
_PUBLIC, _INTERNAL = 14, 9
# Options that a user sets in one object, and only there have a default.
_OPTIONS = {
    "num_inference_steps": "Sampling",
    "guidance_scale": "Sampling",
    "weight_decay": "adamw",
    "max_skipped_steps": "Stopping",
    "num_inner_epochs": "Updates",
    "minibatch_size": "Updates",
    "steps_per_update": "Updates",
    "step_fraction": "Updates",
    "guidance_rate": "LearnedInputs",
}
_FILES = {
    str(path.relative_to(_ROOT)): ast.parse(path.read_text("utf-8"))
    for path in sorted(_ROOT.rglob("*.py"))
}


def _exported(files):
    """Names that a package hands on: those of its `__init__`."""
    return {
        alias.name
        for file, tree in files.items()
        if file.endswith("__init__.py")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _definitions(node, owner=None):
    """Every function and class, the methods with the class that they are of."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.Lambda):
            yield child, owner
            yield from _definitions(child)
        elif isinstance(child, ast.ClassDef):
            yield child, owner
            yield from _definitions(child, child)
        else:
            yield from _definitions(child, owner)


def _parameters(function):
    """The names of parameters, `self` aside, and what each has as its default."""
    args = function.args
    positional = args.posonlyargs + args.args
    missing = [None] * (len(positional) - len(args.defaults))
    defaults = [*missing, *args.defaults, *args.kw_defaults]
    given = zip(positional + args.kwonlyargs, defaults, strict=True)
    return {a.arg: default for a, default in given if a.arg not in ("self", "cls")}


def _fields(cls):
    """The parameters of a constructor that is made of the fields of its class."""
    found = {}
    for node in cls.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if any(w in ast.unparse(node.annotation) for w in ("ClassVar", "AbstractVar")):
            continue
        value = node.value
        if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
            options = {k.arg: k.value for k in value.keywords}
            value = options.get("default")
        found[node.target.id] = value
    return found


def _constructor(cls):
    own = [n for n in cls.body if isinstance(n, ast.FunctionDef)]
    own = [n for n in own if n.name == "__init__"]
    return _parameters(own[0]) if own else _fields(cls)


def _signatures(files):
    """Every function and constructor: file, name, whether public, parameters."""
    exported = _exported(files)
    for file, tree in files.items():
        for node, owner in _definitions(tree):
            if isinstance(node, ast.ClassDef):
                # A published file's configuration is as wide as the file.
                if not node.name.endswith("Config"):
                    yield file, node.name, node.name in exported, _constructor(node)
                continue
            name = getattr(node, "name", "lambda")
            if name == "__init__":
                continue
            known = name if owner is None else owner.name
            is_public = known in exported and (owner is None or name[0] != "_")
            yield file, name, is_public, _parameters(node)


def _too_wide(files):
    for file, name, is_public, parameters in _signatures(files):
        if len(parameters) > (_PUBLIC if is_public else _INTERNAL):
            yield file, name, len(parameters)


def _passed_on(files):
    """Functions of `**kwargs`: whatever they pass on is wider than it looks.

    A wrapper is as wide as what it wraps, and shows it.
    """
    for file, tree in files.items():
        for node, _ in _definitions(tree):
            if isinstance(node, ast.ClassDef) or node.args.kwarg is None:
                continue
            decorators = map(ast.unparse, getattr(node, "decorator_list", []))
            if not any(text.startswith("ft.wraps(") for text in decorators):
                yield file, getattr(node, "name", "lambda")


def _unpacked(files):
    """Tuples of more than three that are taken apart by position."""
    for file, tree in files.items():
        for node in ast.walk(tree):
            for target, value in _assignments(node):
                parts = [t for t in ast.walk(target) if isinstance(t, ast.Tuple)]
                widest = max((len(part.elts) for part in parts), default=0)
                if widest > 3 and not _is_array(value):
                    yield file, ast.unparse(target)


def _assignments(node):
    if isinstance(node, ast.Assign):
        yield from ((target, node.value) for target in node.targets)
    if isinstance(node, ast.For | ast.comprehension):
        yield node.target, node.iter


def _is_array(value):
    """A shape, keys that were split, or as many values as names: no carrier."""
    text = ast.unparse(value)
    drawn = text.startswith("jr.split(")
    return isinstance(value, ast.Tuple) or drawn or text.endswith("shape")


def _second_defaults(files):
    for file, tree in files.items():
        for node, _ in _definitions(tree):
            if isinstance(node, ast.ClassDef):
                name, parameters = node.name, _constructor(node)
            elif isinstance(node, ast.FunctionDef) and node.name != "__init__":
                name, parameters = node.name, _parameters(node)
            else:
                continue
            for parameter, default in parameters.items():
                home = _OPTIONS.get(parameter)
                # One that is named after its home is not another one.
                text = "None" if default is None else ast.unparse(default)
                if text in ("None", f"{home}.{parameter}"):
                    continue
                if home not in (None, name):
                    yield file, name, parameter


def _many(n, suffix=""):
    return ", ".join(f"x{i}{suffix}" for i in range(n))


_RULES = (
    (_too_wide, f"def mine({_many(10)}): pass"),
    (_too_wide, f"def mine(x, *, {_many(9)}): pass"),
    (_too_wide, f"def outer():\n    def inner({_many(10)}): pass"),
    (_too_wide, f"lambda {_many(10)}: 0"),
    (_too_wide, f"def public({_many(15)}): pass"),
    (_too_wide, f"class Public:\n    def __init__(self, {_many(15)}): pass"),
    (
        _too_wide,
        "class Public(eqx.Module):\n" + "".join(f"    x{i}: int\n" for i in range(15)),
    ),
    (_passed_on, "def mine(x, **kwargs): return f(x, **kwargs)"),
    (_unpacked, "a, b, c, d = inputs"),
    (_unpacked, "for i, (a, b, c, d) in rows: pass"),
    (_unpacked, "[a for a, b, c, d in rows]"),
    (_second_defaults, "def mine(*, guidance_scale=7.5): pass"),
    (_second_defaults, "class Mine(eqx.Module):\n    num_inference_steps: int = 50"),
    (
        _second_defaults,
        "class Mine:\n    def __init__(self, max_skipped_steps=3): pass",
    ),
)


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _ in _RULES))
def test_the_package_keeps(rule):
    assert list(rule(_FILES)) == []


@pytest.mark.parametrize(("rule", "text"), _RULES)
def test_what_breaks_it_is_found(rule, text):
    exports = "from ._x import public as public, Public as Public"
    sources = {"__init__.py": exports, "_x.py": text}
    assert list(rule({name: ast.parse(text) for name, text in sources.items()}))


def test_what_is_public_may_be_wider():
    exports = "from ._x import public as public"
    sources = {"__init__.py": exports, "_x.py": f"def public({_many(14)}): pass"}
    assert not list(_too_wide({n: ast.parse(text) for n, text in sources.items()}))


def test_an_array_may_be_taken_apart():
    text = "batch, height, width, channels = x.shape\na, b, c, d = jr.split(key, 4)"
    assert not list(_unpacked({"_x.py": ast.parse(text)}))


def test_every_option_has_its_default_somewhere():
    found = set()
    for _, name, _, parameters in _signatures(_FILES):
        found |= {(parameter, name) for parameter, d in parameters.items() if d}
    assert set(_OPTIONS.items()) <= found
