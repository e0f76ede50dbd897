"""NumPyro models of the 14 posteriordb posteriors with reference draws; no data here."""

from experiments.posteriordb._data import (
    Reference as Reference,
    data_folder as data_folder,
    load as load,
)
from experiments.posteriordb._models import MODELS as MODELS, arguments as arguments
