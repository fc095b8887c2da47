import pathlib

from ...judges import open_clip_config
from ...models import CLIPConfig
from ..formats import ModelFileError, read_json


_BESIDE = "open_clip_config.json"


def find_open_clip_config(
    weights: pathlib.Path, config: CLIPConfig | pathlib.Path | None, default: CLIPConfig
) -> tuple[CLIPConfig, str]:
    """Finds what a CLIP with the names of open_clip is.

    **Arguments:**

    - `weights`: The file, which does not say it all.
    - `config`: What was given: a config, or a file of open_clip or of transformers.
        `None` is `open_clip_config.json` beside the weights.
    - `default`: The config if that is not there either.

    **Returns:**

    It, and whose it is, for the text of an error.
    """
    if isinstance(config, CLIPConfig):
        return config, "the `config` that was given"
    beside = weights.parent / _BESIDE
    if config is None and not beside.is_file():
        whose = (
            f"the published weights; no `config` was given, nor is {_BESIDE} beside it"
        )
        return default, whose
    path = beside if config is None else config
    described = read_json(path)
    read = CLIPConfig.from_dict if "text_config" in described else open_clip_config
    try:
        return read(described), repr(str(path))
    except (TypeError, ValueError, AttributeError, ArithmeticError) as e:
        raise ModelFileError(f"{str(path)!r} describes no CLIPModel: {e}") from e
