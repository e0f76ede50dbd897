from ._batches import DeviceData as DeviceData
from ._config import FitConfig as FitConfig
from ._fit import FitResult as FitResult, Outcome as Outcome, Progress as Progress, fit as fit
from ._losses import Terms as Terms, total_loss as total_loss
from ._prior import FittedPrior as FittedPrior, fit_prior as fit_prior
from ._state import Rates as Rates, State as State, init as init
from ._step import run as run, step as step
