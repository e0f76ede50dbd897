from ._critic import ScoreCritic as ScoreCritic
from ._fit import FittedScore as FittedScore, fit_score as fit_score
from ._spectral import spectral_score as spectral_score
from ._stein import stein_score as stein_score
