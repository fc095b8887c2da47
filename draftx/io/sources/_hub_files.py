"""Single files of repositories on the Hugging Face Hub, at a revision."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from ..formats import check_sha256, ModelFileError


def is_repo_id(source: str) -> bool:
    """Tells whether a string has the form `owner/name`.

    **Arguments:**

    - `source`: As a user wrote it.
    """
    part = r"[A-Za-z0-9][\w.-]*"
    return re.fullmatch(f"{part}/{part}", source, re.ASCII) is not None


@dataclasses.dataclass(frozen=True)
class HubFiles:
    """Names files of one repository of the hub, all in one folder of it.

    **Arguments:**

    - `repo_id`: `owner/name`.
    - `revision`: A commit; `None` is the newest.
    - `names`: Of the files.
    - `sha256`: The digests that are known, by name: for large files without one it is
        the digest that the hub stated at this revision.
    - `repo_type`: `"dataset"` for one of those.
    """

    repo_id: str
    revision: str | None
    names: tuple[str, ...]
    sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)
    repo_type: str | None = None

    @property
    def command(self) -> str:
        """Says what downloads them into the cache."""
        kind = "" if self.repo_type is None else f" --repo-type {self.repo_type}"
        at = "" if self.revision is None else f" --revision {self.revision}"
        return f"hf download {self.repo_id}{kind}{at} {' '.join(self.names)}"


def fetch(wanted: list[HubFiles], what: str) -> list[pathlib.Path]:
    """Downloads what the cache lacks, and checks what is there by its digest.

    **Arguments:**

    - `wanted`: All files that are needed.
    - `what`: Needs them, for the error text.

    **Returns:**

    For each entry of `wanted`, the folder that holds its files.
    """
    import huggingface_hub

    folders = []
    for files in wanted:
        try:
            paths = [
                pathlib.Path(
                    huggingface_hub.hf_hub_download(
                        files.repo_id,
                        file,
                        repo_type=files.repo_type,
                        revision=files.revision,
                    )
                )
                for file in files.names
            ]
        # What is raised depends on the version and on the HTTP client that it uses.
        except Exception as e:
            cause = " ".join([f"{type(e).__name__}:", *str(e).split("\n")[:1]])
            raise ModelFileError(
                f"The files of {what} are not here, and the Hugging Face Hub did not "
                f"give those of {files.repo_id!r} ({cause}). With a connection, "
                f"`{' && '.join(f.command for f in wanted)}` gets them."
            ) from e
        for name, path in zip(files.names, paths, strict=True):
            digest = files.sha256.get(name) or stated_digest(path)
            if digest is not None:
                again = f"`{files.command} --force-download` gets it again"
                check_sha256(path, digest, again)
        folders.append(paths[0].parent)
    return folders


def hub_sizes(files: HubFiles) -> dict[str, int]:
    """Asks the hub how large all files of a repository are, in bytes by name.

    **Arguments:**

    - `files`: Of the repository; those named are in the error text.
    """
    import huggingface_hub

    try:
        info: Any = huggingface_hub.HfApi().repo_info(
            files.repo_id,
            revision=files.revision,
            repo_type=files.repo_type,
            files_metadata=True,
        )
    # As in `fetch`.
    except Exception as e:
        cause = " ".join([f"{type(e).__name__}:", *str(e).split("\n")[:1]])
        raise ModelFileError(
            f"The Hugging Face Hub did not say what {files.repo_id!r} has ({cause}). "
            f"With a connection, `{files.command}` gets its files."
        ) from e
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def stated_digest(path: pathlib.Path) -> str | None:
    """Finds the SHA-256 that the hub has for a file: it has those of large files.

    Its cache keeps them under that name, with a link from the revision.

    **Arguments:**

    - `path`: Of the file in the cache.

    **Returns:**

    The digest in hexadecimal, or `None`.
    """
    name = path.resolve().name
    return name if re.fullmatch("[0-9a-f]{64}", name) else None
