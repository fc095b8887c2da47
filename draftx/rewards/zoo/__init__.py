"""Rewards by name, with their published weights: each owns its entry, a file here."""

from ._entry import PublishedReward as PublishedReward
from ._load import load as load, names as names, published as published
from ._lpips import load_lpips as load_lpips
from ._markdown import table as table
