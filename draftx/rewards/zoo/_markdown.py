"""The table of the published rewards, for `draftx/rewards/README.md`."""

from ...io import EmbeddedFolder, HubFiles, PackageFile
from ._catalogue import PUBLISHED
from ._entry import Files, PublishedReward


_HEAD = (
    "| `load` | class | weights | licence | size | SHA-256 | images become | scores "
    "| compared with |"
)


def table() -> str:
    """Writes the published rewards as a table of Markdown, from their entries."""
    rule = "|" + " --- |" * (_HEAD.count("|") - 1)
    return "\n".join([_HEAD, rule, *map(_row, PUBLISHED.values())]) + "\n"


def _row(entry: PublishedReward) -> str:
    cells = (
        f"`{entry.name}`",
        f"`{entry.reward.__name__}`",
        _where(entry.files),
        entry.license,
        entry.size,
        _digest(entry.files),
        entry.preprocessing,
        entry.range,
        entry.compared_with,
    )
    return f"| {' | '.join(cells)} |"


def _where(files: Files) -> str:
    if isinstance(files, HubFiles):
        weights = next(name for name in files.names if not name.endswith(".json"))
        return f"`{files.repo_id}` @ `{(files.revision or '')[:12]}`: `{weights}`"
    if isinstance(files, PackageFile):
        return f"`{files.command}`"
    if isinstance(files, EmbeddedFolder):
        return f"`weights/{files.name}`"
    return f"torchvision's `{files.path.name}`"


def _digest(files: Files) -> str:
    if not isinstance(files, HubFiles):
        return f"`{(files.sha256 or '')[:8]}`"
    return ", ".join(f"`{x[:8]}`" for x in files.sha256.values()) or "the hub's"
