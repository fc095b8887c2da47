"""The floors of the package and their rooms, as a test rather than as a paragraph."""

import ast
import graphlib
import pathlib

import pytest


_ROOT = pathlib.Path(__file__).parent.parent / "draftx"
# Low to high; the files of the root lie below all of them.
_FLOORS = (
    "kernels",
    "layers",
    "models",
    "judges",
    "lora",
    "diffusion",
    "pipeline",
    "io",
    "rewards",
    "episodes",
    "finetuning",
    "search",
    "distillation",
    "runs",
)
# Rooms of a floor import only those before them; a floor that is not here is one room.
_ROOMS = {
    "kernels": ("attention", "conv"),
    "models": ("clip", "unet", "vae"),
    "judges": ("classifiers", "clip", "blip", "owlvit", "dinov2"),
    "io": ("formats", "checkpoints", "sources", "original", "pipeline", "judges"),
    "rewards": ("contract", "jpeg", "preference", "perception", "zoo"),
    "finetuning": ("estimators", "evaluation", "training", "rounds"),
    "search": ("values",),
    "runs": ("config", "folder", "report", "training", "commands"),
}
# What a stranger may implement: nobody asks for an implementation of these by name.
_OPEN = (
    "AbstractCallback",
    "AbstractCheckpointStore",
    "AbstractGradientEstimator",
    "AbstractLoRASchedule",
    "AbstractNoiseWeights",
    "AbstractPictures",
    "AbstractPenalty",
    "AbstractReward",
    "AbstractRoundMethod",
    "AbstractSampler",
    "AbstractStepCost",
    "AbstractValue",
    "AbstractVisualPrompt",
)
_PLAIN_BASES = ("Module", "NamedTuple", "Generic", "Protocol", "StrEnum", "ABC")
# Of the standard library, and abstract.
_PLAIN_BASES += ("Mapping",)

# Each file by its parts, `("io", "sources", "_hub_files.py")`.
_FILES = {
    path.relative_to(_ROOT).parts: ast.parse(path.read_text("utf-8"))
    for path in sorted(_ROOT.rglob("*.py"))
}


def _imports(file, tree):
    """Finds what a file imports of the package: modules, as parts after its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = file[: len(file) - node.level]
            if node.module:
                yield base + tuple(node.module.split("."))
            else:
                yield from (base + (alias.name,) for alias in node.names)


def _room(parts):
    """The room of a module, or the file of a floor that is in none."""
    return parts[1].removesuffix(".py") if len(parts) > 1 else "__init__"


def _is_part(target):
    """Whether a module is a room or a file of a floor, not a name of the floor."""
    return len(target) > 1 and _room(target) in {
        _room(file) for file in _FILES if file[0] == target[0]
    }


def _absolute(files):
    for file, tree in files.items():
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            if any(name.split(".")[0] == "draftx" for name in names):
                yield file, names


def _upward(files):
    for file, tree in files.items():
        # The package and its command stand on all floors.
        if file in (("__init__.py",), ("__main__.py",)):
            continue
        # A file of the root imports other files of the root alone.
        height = -1 if len(file) == 1 else _FLOORS.index(file[0])
        for target in _imports(file, tree):
            if target[0] in _FLOORS and _FLOORS.index(target[0]) > height:
                yield file, target


def _private(files):
    for file, tree in files.items():
        for target in _imports(file, tree):
            if target[0] not in _FLOORS:
                continue
            if target[0] != file[0]:
                if any(part.startswith("_") for part in target):
                    yield file, target
            # Within its floor a file imports of rooms, and not of their sum.
            elif not _is_part(target) or (_room(target) != _room(file) and target[2:]):
                yield file, target


def _wrong_rooms(files):
    for file, tree in files.items():
        rooms = _ROOMS.get(file[0], ())
        if _room(file) not in rooms:
            continue
        for target in _imports(file, tree):
            if target[0] == file[0] and _room(target) in rooms[rooms.index(file[1]) :]:
                if _room(target) != _room(file):
                    yield file, target


def _circles(files):
    """Circles among the rooms and files of each floor, and the files of the root."""
    graphs = {}
    for file, tree in files.items():
        floor = file[0] if len(file) > 1 else ""
        here = _room(file) if floor else file[0].removesuffix(".py")
        if not floor:
            targets = {t[0] for t in _imports(file, tree)}
        else:
            targets = {_room(t) for t in _imports(file, tree) if t[0] == floor}
        nodes = graphs.setdefault(floor, {})
        nodes.setdefault(here, set()).update(targets - {here})
    for graph in graphs.values():
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            yield error.args[1]


def _neither_abstract_nor_final(files):
    for file, tree in files.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for base in _bases(node):
                    abstract = base.startswith("Abstract") or base.endswith("Error")
                    if not abstract and base not in _PLAIN_BASES:
                        yield file, node.name, base


def _bases(node):
    return {ast.unparse(b).split("[")[0].split(".")[-1] for b in node.bases}


def _implementations(files):
    """Finds every class of the package that implements an open interface."""
    bases = {
        node.name: _bases(node)
        for tree in files.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = set(_OPEN)
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return {name for name in found if not name.startswith("Abstract")}


def _closed_questions(files):
    # Every wrapper may hold a host's function, which has to be found.
    ours = _implementations(_FILES) - {"HostReward"}
    for file, tree in files.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                parts = ast.walk(node.args[1])
                if ours & {n.id for n in parts if isinstance(n, ast.Name)}:
                    yield file, ast.unparse(node)


def _unnamed_re_exports(files):
    for file, tree in files.items():
        if file[-1] == "__init__.py":
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom):
                    for alias in node.names:
                        if alias.asname != alias.name:
                            yield file, alias.name


# Each rule, and a file that breaks it: a rule that finds nothing there is none.
_RULES = (
    (_absolute, ("io", "_x.py"), "from draftx.layers import Linear"),
    (_upward, ("_checks.py",), "from .kernels import conv2d"),
    (_upward, ("_checks.py",), "from . import rewards"),
    (_upward, ("models", "unet", "_x.py"), "from ...io import load"),
    (_private, ("io", "_x.py"), "from ..layers._linear import Linear"),
    (_private, ("finetuning", "rounds", "_x.py"), "from ..training._run import Run"),
    (_private, ("finetuning", "rounds", "_x.py"), "from ...finetuning import DRaFT"),
    (_private, ("finetuning", "rounds", "_x.py"), "from .. import DRaFT"),
    (_wrong_rooms, ("rewards", "contract", "_x.py"), "from ..zoo import load"),
    (_wrong_rooms, ("finetuning", "training", "_x.py"), "from ..rounds import DDPO"),
    (_circles, ("layers", "_conv.py"), "from ._conv_x import x"),
    (_circles, ("_checks.py",), "from ._conv_x import x"),
    (_neither_abstract_nor_final, ("io", "_x.py"), "class Mine(draftx.DRaFT): pass"),
    (_closed_questions, ("io", "_x.py"), "isinstance(method, DRaFT | Other)"),
    (_closed_questions, ("io", "_x.py"), "isinstance(sampler, (DDIM, Euler))"),
    (_unnamed_re_exports, ("io", "__init__.py"), "from ._load import load"),
)


@pytest.mark.parametrize("rule", dict.fromkeys(r for r, *_ in _RULES))
def test_the_package_keeps(rule):
    assert list(rule(_FILES)) == []


@pytest.mark.parametrize(("rule", "file", "text"), _RULES)
def test_what_breaks_it_is_found(rule, file, text):
    back = {("layers", "_conv_x.py"): "from ._conv import y"}
    back |= {("_conv_x.py",): "from ._checks import y"}
    sources = {file: text} | (back if rule is _circles else {})
    assert list(rule({name: ast.parse(text) for name, text in sources.items()}))


def test_every_folder_is_a_floor_or_a_room():
    folders = {file[:-1] for file in _FILES if len(file) > 1}
    rooms = {(floor, room) for floor, of in _ROOMS.items() for room in of}
    assert folders == {(floor,) for floor in _FLOORS} | rooms


def test_the_contract_of_rewards_knows_no_files():
    for file, tree in _FILES.items():
        if file[:2] == ("rewards", "contract"):
            assert not any(target[0] == "io" for target in _imports(file, tree))


def test_implementations_of_open_interfaces_are_found():
    some = {"DRaFT", "Penalized", "DDIM", "PickScore", "DDPO", "LoRAWindow"}
    assert some <= _implementations(_FILES)


def test_a_file_has_one_idea():
    lines = {p: len(p.read_text("utf-8").splitlines()) for p in _ROOT.rglob("*.py")}
    assert {path: n for path, n in lines.items() if n > 300} == {}
