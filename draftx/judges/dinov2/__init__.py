from ._config import DINOV2_S_14 as DINOV2_S_14, dinov2_config as dinov2_config
from ._model import Dinov2Model as Dinov2Model
from ._names import from_dinov2 as from_dinov2
