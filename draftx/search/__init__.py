"""Better images from a model as it is: search at inference time, without training."""

from ._best_of_n import best_of_n as best_of_n
from ._doodl import doodl as doodl
from ._prompts import prompt_engineering as prompt_engineering, TEMPLATE as TEMPLATE
from ._result import SearchResult as SearchResult
from ._svdd import svdd as svdd
