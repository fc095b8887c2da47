from ._config import dinov2_config as dinov2_config, DINOV2_S_14 as DINOV2_S_14
from ._model import Dinov2Model as Dinov2Model
from ._names import from_dinov2 as from_dinov2
