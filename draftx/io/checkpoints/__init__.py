"""The state of a training or a search, stored to survive a kill at any moment."""

from ._abstract import (
    AbstractCheckpointStore as AbstractCheckpointStore,
    Checkpoint as Checkpoint,
)
from ._arrays import from_arrays as from_arrays, to_arrays as to_arrays
from ._checkpoints import (
    check_checkpoints as check_checkpoints,
    Checkpoints as Checkpoints,
    saved_steps as saved_steps,
)
from ._facts import describe as describe
from ._orbax import OrbaxStore as OrbaxStore
from ._store import CheckpointStore as CheckpointStore
