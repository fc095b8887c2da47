"""`python -m draftx.rewards.zoo` prints the table of the published rewards."""

from ._markdown import table


print(table(), end="")
