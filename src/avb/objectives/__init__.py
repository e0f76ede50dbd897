"""What the critic minimises; at the minimum T = log q − log r."""

from avb.objectives._base import AbstractObjective as AbstractObjective
from avb.objectives._donsker_varadhan import DonskerVaradhan as DonskerVaradhan
from avb.objectives._kl_dual import KLDual as KLDual
from avb.objectives._least_squares import LeastSquares as LeastSquares
from avb.objectives._logistic import Logistic as Logistic, WeightedLogistic as WeightedLogistic
