"""What latents on their way are worth: the interface, and values of it."""

from ._files import load_value as load_value, save_value as save_value
from ._fit import fit_value as fit_value, ValueFit as ValueFit
from ._learned import LearnedValue as LearnedValue
from ._network import (
    ValueNetwork as ValueNetwork,
    ValueNetworkConfig as ValueNetworkConfig,
)
from ._value import (
    AbstractValue as AbstractValue,
    Outlook as Outlook,
    PosteriorMean as PosteriorMean,
)
