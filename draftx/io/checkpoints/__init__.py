"""The state of a training as folders that survive a kill at any moment."""

from ._arrays import from_arrays as from_arrays, to_arrays as to_arrays
from ._store import Checkpoint as Checkpoint, CheckpointStore as CheckpointStore
