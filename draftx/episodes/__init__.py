"""One batch bound to the model that draws it and the reward that judges it."""

from ._budget import Budget as Budget, count as count
from ._episode import Episode as Episode, make_episode as make_episode
from ._memory import Memory as Memory
from ._task import image_spec as image_spec, make_task as make_task, Task as Task
