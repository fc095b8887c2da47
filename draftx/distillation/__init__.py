"""Pictures, or whatever renders to pictures, distilled out of a model's score.

What is optimized is anything with a differentiable renderer: a grid, a mesh, a network,
or the picture itself. The model that draws pictures is a constant, and so are rewards.

| | |
| --- | --- |
| `distill` | optimizes the parameters of a renderer |
| `distillation_gradient` | gives their gradient alone |
| `ScoreDistillation` | options: times, weighting, what is rendered |
| `RewardedNoises` | RewardSDS: several noises, weighed by what each leads to |
| `VisualPrompt` | VP3D: a picture that the score is conditioned on besides the text |
| `TokenPrompt` | the same by trained tokens, as an IP-Adapter has them |
| `fit_image_tokens` | trains these tokens on pictures, with the model frozen |
"""

from ._distill import distill as distill
from ._fit_tokens import fit_image_tokens as fit_image_tokens, TokensFit as TokensFit
from ._gradient import distillation_gradient as distillation_gradient
from ._method import (
    ScoreDistillation as ScoreDistillation,
    TimeAnnealing as TimeAnnealing,
)
from ._noises import (
    AbstractNoiseWeights as AbstractNoiseWeights,
    BestAndWorst as BestAndWorst,
    RewardedNoises as RewardedNoises,
    Softmax as Softmax,
)
from ._pictures import (
    AbstractPictures as AbstractPictures,
    AbstractVisualPrompt as AbstractVisualPrompt,
)
from ._result import DistillationResult as DistillationResult
from ._token_prompt import TokenPrompt as TokenPrompt
from ._visual_prompt import VisualPrompt as VisualPrompt
