"""Better images from a model as it is: search at inference time, without training.

A search that is given `checkpoints` goes on where it was interrupted, bit for bit. It
has few steps beside a training, so say how many lie between two checkpoints:
`draftx.Checkpoints("run", every=5)`. The last column says when that is worth it.

| search | a step is | is long with |
| --- | --- | --- |
| `best_of_n` | an image for each prompt | many candidates |
| `doodl` | a step of Adam, back through the whole chain | any model of real size |
| `dps` | a step of the chain, and back through it | any model of real size |
| `smc` | a step of the chain for `num_particles` | many particles |
| `svdd` | a step of the chain, drawn `num_candidates` times | many candidates |
| `prompt_engineering` | an image for each prompt | many templates, which is rare |

`smc` and `svdd` compare noised latents by a `value=`, an `AbstractValue`:

| value | asks, for all latents that are compared | needs |
| --- | --- | --- |
| `PosteriorMean()` | the model, the decoder and the reward | nothing |
| `LearnedValue` | a small network | `fit_value`, once for model, reward and chain |
"""

from ._best_of_n import best_of_n as best_of_n
from ._doodl import doodl as doodl
from ._dps import dps as dps
from ._prompts import prompt_engineering as prompt_engineering, TEMPLATE as TEMPLATE
from ._result import SearchResult as SearchResult
from ._smc import Potential as Potential, smc as smc
from ._svdd import svdd as svdd
from .values import (
    AbstractValue as AbstractValue,
    fit_value as fit_value,
    LearnedValue as LearnedValue,
    load_value as load_value,
    Outlook as Outlook,
    PosteriorMean as PosteriorMean,
    save_value as save_value,
    ValueFit as ValueFit,
    ValueNetwork as ValueNetwork,
    ValueNetworkConfig as ValueNetworkConfig,
)
