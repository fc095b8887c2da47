"""The run itself: it trains, and writes down what happens."""

from ._push import (
    push as push,
    PushError as PushError,
)
from ._train import summary as summary, train as train
