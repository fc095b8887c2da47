"""Better images from a model as it is: search at inference time, without training.

A search that is given `checkpoints` goes on where it was interrupted, bit for bit. It
has few steps beside a training, so say how many lie between two checkpoints:
`draftx.Checkpoints("run", every=5)`. The last column says when that is worth it.

| search | a step is | is long with |
| --- | --- | --- |
| `best_of_n` | an image for each prompt | many candidates |
| `doodl` | a step of Adam, back through the whole chain | any model of real size |
| `svdd` | a step of the chain, drawn `num_candidates` times | many candidates |
| `prompt_engineering` | an image for each prompt | many templates, which is rare |
"""

from ._best_of_n import best_of_n as best_of_n
from ._doodl import doodl as doodl
from ._prompts import prompt_engineering as prompt_engineering, TEMPLATE as TEMPLATE
from ._result import SearchResult as SearchResult
from ._svdd import svdd as svdd
