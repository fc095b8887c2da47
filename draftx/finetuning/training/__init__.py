"""Gradients of rewards with respect to adapters, and training on them."""

from ._average import averaged as averaged, with_ema as with_ema
from ._callbacks import (
    AbstractCallback as AbstractCallback,
    Callback as Callback,
    check_callbacks as check_callbacks,
    MEMORY_REMEDY as MEMORY_REMEDY,
)
from ._finetune import finetune as finetune
from ._joined import norm_of as norm_of
from ._optimizer import (
    adamw as adamw,
    as_optimizer as as_optimizer,
    as_own as as_own,
    ascend as ascend,
    learning_rate as learning_rate,
    Optimizer as Optimizer,
)
from ._progress_bar import ProgressBar as ProgressBar
from ._rates import square_root_decay as square_root_decay
from ._result import FinetuneResult as FinetuneResult, Kind as Kind
from ._reward_gradient import (
    check_task as check_task,
    objective as objective,
    reward_gradient as reward_gradient,
    split as split,
    value_and_grad as value_and_grad,
)
from ._run import Run as Run, to_default_device as to_default_device
from ._stopping import Stopping as Stopping
from ._tier import settle as settle
from ._train_step import (
    train_step as train_step,
    Training as Training,
    TrainState as TrainState,
)
from ._trained import (
    check_trainable as check_trainable,
    trainable_filter as trainable_filter,
)
