"""All published rewards: a new one is its file and a line here."""

from ._aesthetic import AESTHETIC
from ._clip import CLIP
from ._dinov2 import DINOV2_SMALL, DINOV2_SMALL_POOLED
from ._efficientnet_lite0 import EFFICIENTNET_LITE0
from ._entry import PublishedReward
from ._hps import HPSV2, HPSV2_1
from ._image_reward import IMAGE_REWARD
from ._lpips import LPIPS_ALEX, LPIPS_VGG
from ._owlvit import OWLVIT, OWLVIT_COUNT
from ._pickscore import PICKSCORE
from ._resnet50 import RESNET50
from ._tiny import TINY_CLASSIFIER, TINY_CLIP, TINY_COUNTER


_ENTRIES = (
    CLIP,
    PICKSCORE,
    HPSV2,
    HPSV2_1,
    AESTHETIC,
    IMAGE_REWARD,
    OWLVIT,
    OWLVIT_COUNT,
    DINOV2_SMALL,
    DINOV2_SMALL_POOLED,
    RESNET50,
    EFFICIENTNET_LITE0,
    LPIPS_VGG,
    LPIPS_ALEX,
    TINY_CLIP,
    TINY_CLASSIFIER,
    TINY_COUNTER,
)
PUBLISHED: dict[str, PublishedReward] = {entry.name: entry for entry in _ENTRIES}
