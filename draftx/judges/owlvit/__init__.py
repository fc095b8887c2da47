from ._config import OWLVIT_B_32 as OWLVIT_B_32, owlvit_config as owlvit_config
from ._model import (
    Detections as Detections,
    OwlViTForObjectDetection as OwlViTForObjectDetection,
)
