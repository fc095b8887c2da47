"""What a run leaves behind, and who may work on it."""

from ._card import (
    adapter_metadata as adapter_metadata,
    licence as licence,
    write_card as write_card,
)
from ._folder import (
    append_line as append_line,
    check_output_dir as check_output_dir,
    open_run as open_run,
    read_scales as read_scales,
    RunFolder as RunFolder,
    SavedRun as SavedRun,
    Scales as Scales,
    write_lines as write_lines,
    write_scales as write_scales,
)
from ._lock import FolderLock as FolderLock, RunInUseError as RunInUseError
from ._panels import is_png as is_png, Panel as Panel, split_panels as split_panels
from ._pictures import (
    captioned_grid as captioned_grid,
    curves as curves,
    to_uint8 as to_uint8,
)
