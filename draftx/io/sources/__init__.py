"""Where files come from: the hub, a package, this machine."""

from ._hub_files import (
    fetch as fetch,
    hub_sizes as hub_sizes,
    HubFiles as HubFiles,
    is_repo_id as is_repo_id,
    stated_digest as stated_digest,
)
from ._local_files import (
    EmbeddedFolder as EmbeddedFolder,
    PackageFile as PackageFile,
    TorchFile as TorchFile,
)
