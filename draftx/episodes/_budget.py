import dataclasses

from .._checks import not_negative, plain
from .._custom_types import Real, RealLike


@dataclasses.dataclass(frozen=True)
class Budget:
    """Counts what something has cost, or is expected to cost.

    Budgets add up (`a + b`), and repeat (`3 * a`). A number is a fraction where a
    method draws how much it does: it is then the mean.

    **Arguments:**

    - `images`: Made for a prompt, by a whole chain or what stands for one.
    - `reward_queries`: Images that were decoded and scored.
    - `unet_forwards`, `unet_backwards`: Evaluations of the UNet for one image, and
        backward passes through them. Guidance makes two of one. What `remat` computes
        again to save memory is not counted: it is the same algorithm.
    - `seconds`: Of wall time; compilation is in it.
    """

    images: RealLike = 0
    reward_queries: RealLike = 0
    unet_forwards: RealLike = 0
    unet_backwards: RealLike = 0
    seconds: RealLike = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            not_negative(field.name, value)
            object.__setattr__(self, field.name, plain(value))

    def __add__(self, other: "Budget") -> "Budget":
        values = zip(self.as_dict().values(), other.as_dict().values(), strict=True)
        return Budget(*(a + b for a, b in values))

    def __mul__(self, times: Real) -> "Budget":
        return Budget(*(times * value for value in self.as_dict().values()))

    __rmul__ = __mul__

    def as_dict(self) -> dict[str, Real]:
        """Names the numbers: a part of a history's row."""
        return dataclasses.asdict(self)


def count(
    batch_size: int,
    *,
    guided: bool,
    forwards: Real,
    backwards: Real = 0,
    images: Real = 1,
    queries: Real = 1,
    seconds: Real = 0,
) -> Budget:
    """Makes a budget out of what is done for one image.

    **Arguments:**

    - `batch_size`: How many images.
    - `guided`: Whether guidance doubles the evaluations of the UNet.
    - `forwards`, `backwards`: Steps predicted, and steps differentiated.
    - `images`, `queries`: Images made, and images scored.
    - `seconds`: Of all of it.
    """
    per_step = 2 if guided else 1
    return Budget(
        images=batch_size * images,
        reward_queries=batch_size * queries,
        unet_forwards=batch_size * per_step * forwards,
        unet_backwards=batch_size * per_step * backwards,
        seconds=seconds,
    )
