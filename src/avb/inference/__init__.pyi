from ._amortised import AmortisedInference as AmortisedInference
from ._amortised_posterior import AmortisedPosterior as AmortisedPosterior
from ._inference import Inference as Inference, load as load
from ._measure import Bracket as Bracket, Importance as Importance
from ._posterior import Fit as Fit, Posterior as Posterior
from ._resample import ResampleWarning as ResampleWarning
from ._restarts import Agreement as Agreement
from ._target import Target as Target
from ._verdict import Verdict as Verdict
