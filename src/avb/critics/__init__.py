"""Critics T(x, z), which learn log q(z|x) − log r(z|x)."""

from avb.critics._base import AbstractCritic as AbstractCritic
from avb.critics._residual import ResidualCritic as ResidualCritic
from avb.critics._telescoping import TelescopingCritic as TelescopingCritic
