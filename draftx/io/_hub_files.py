"""Single files of repositories on the Hugging Face Hub, at a revision."""

import dataclasses
import pathlib

from ._errors import ModelFileError


@dataclasses.dataclass(frozen=True)
class HubFiles:
    """Files of one repository."""

    repo_id: str
    revision: str | None
    names: tuple[str, ...]

    @property
    def command(self) -> str:
        """What downloads them into the cache."""
        at = "" if self.revision is None else f" --revision {self.revision}"
        return f"hf download {self.repo_id}{at} {' '.join(self.names)}"


def fetch(wanted: list[HubFiles], name: str) -> list[pathlib.Path]:
    """Downloads what the cache lacks.

    **Arguments:**

    - `wanted`: All files of a reward.
    - `name`: Of the reward, for the error text.

    **Returns:**

    For each entry of `wanted`, the folder that holds its files.
    """
    import huggingface_hub

    folders = []
    for files in wanted:
        try:
            paths = [
                huggingface_hub.hf_hub_download(
                    files.repo_id, file, revision=files.revision
                )
                for file in files.names
            ]
        # What is raised depends on the version and on the HTTP client that it uses.
        except Exception as e:
            cause = " ".join([f"{type(e).__name__}:", *str(e).split("\n")[:1]])
            raise ModelFileError(
                f"The files of the reward {name!r} are not here, and the Hugging Face "
                f"Hub did not give those of {files.repo_id!r} ({cause}). With a "
                f"connection, `{' && '.join(f.command for f in wanted)}` gets them."
            ) from e
        folders.append(pathlib.Path(paths[0]).parent)
    return folders
