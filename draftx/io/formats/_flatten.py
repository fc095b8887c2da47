"""What a pickle holds, as tensors and strings by the way to them."""

from typing import Any

from ._errors import ModelFileError
from ._unpickle import ParameterDict, Tensor


def flatten(tree: Any, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor of nested dictionaries and lists, by its keys joined with dots.

    A dictionary with an entry `"state_dict"` stands for that entry alone: what trainers
    put beside it (optimizers, counters) is left out. Numbers are left out too.

    **Arguments:**

    - `tree`: What a pickle held.
    - `name`: Of the file, for the error text.

    **Returns:**

    Tensors, and strings.
    """
    while isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict):
        tree = tree["state_dict"]
    tensors: dict[str, Tensor] = {}
    texts: dict[str, str] = {}
    pending, visited = [("", tree, 0)], 0
    while pending:
        prefix, node, depth = pending.pop()
        visited += 1
        # A pickle can refer to a dictionary twice, or from within itself.
        if depth > 16 or visited > 1_000_000:
            raise ModelFileError(
                f"{name!r} must hold dictionaries at most 16 deep with at most a "
                "million entries."
            )
        if isinstance(node, ParameterDict):
            node = node.parameters
        if isinstance(node, Tensor):
            tensors[prefix] = node
        elif type(node) is str:
            texts[prefix] = node
        elif isinstance(node, dict | list) or type(node) is tuple:
            items = node.items() if isinstance(node, dict) else enumerate(node)
            join = f"{prefix}." if prefix else ""
            # The last is taken first: this keeps the order of the file.
            found = [(f"{join}{key}", value, depth + 1) for key, value in items]
            pending.extend(reversed(found))
    if not tensors or "" in tensors:
        raise ModelFileError(
            f"{name!r} must hold a dictionary of tensors; it holds a "
            f"{type(tree).__name__}{'' if tensors else ' without any'}."
        )
    return tensors, texts
