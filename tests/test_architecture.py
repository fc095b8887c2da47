"""The floors of the package, as a test rather than as a paragraph."""

import ast
import pathlib

import pytest


_ROOT = pathlib.Path(__file__).parent.parent / "draftx"
_FLOORS = (
    "kernels",
    "layers",
    "models",
    "judges",
    "diffusion",
    "pipeline",
    "lora",
    "io",
    "rewards",
    "finetuning",
    "search",
)
_FILES = sorted(_ROOT.rglob("*.py"))
_NAME = lambda path: str(path.relative_to(_ROOT))


def _imports(path):
    package = path.relative_to(_ROOT.parent).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = tuple((node.module or "").split(".")) if node.module else ()
            if module:
                yield base + module
            else:
                yield from (base + (alias.name,) for alias in node.names)


def test_every_folder_is_a_floor():
    folders = {p.name for p in _ROOT.iterdir() if p.is_dir() and p.name[0] not in "._"}
    assert folders - {"__pycache__"} == set(_FLOORS)


@pytest.mark.parametrize("path", _FILES, ids=_NAME)
def test_floor_imports_only_lower_floors(path):
    here = path.relative_to(_ROOT).parts[0]
    if here not in _FLOORS:
        return
    for target in _imports(path):
        if len(target) > 1 and target[1] in _FLOORS:
            assert _FLOORS.index(target[1]) <= _FLOORS.index(here), target


@pytest.mark.parametrize("path", _FILES, ids=_NAME)
def test_classes_are_abstract_or_final(path):
    plain = ("Module", "NamedTuple", "Generic", "Protocol", "ValueError", "Exception")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            for base in (ast.unparse(b).split("[")[0] for b in node.bases):
                name = base.split(".")[-1]
                allowed = name.startswith("Abstract") or name.endswith("Error")
                assert allowed or name in plain, base


@pytest.mark.parametrize("path", _FILES, ids=_NAME)
def test_a_file_has_one_idea(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", _FILES, ids=_NAME)
def test_re_exports_name_themselves(path):
    if path.name != "__init__.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name, alias.name
