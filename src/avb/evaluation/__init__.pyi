from ._active_units import ActiveUnits as ActiveUnits, active_units as active_units
from ._adversary import Diagnosis as Diagnosis, diagnose as diagnose
from ._annealed import annealed_bound as annealed_bound
from ._bidirectional import bidirectional_bounds as bidirectional_bounds
from ._bracket import elbo_bracket as elbo_bracket
from ._config import EvaluationConfig as EvaluationConfig
from ._critic import critic_elbo as critic_elbo
from ._elbo import elbo as elbo
from ._estimate import Estimate as Estimate
from ._evaluate import Evaluation as Evaluation, evaluate as evaluate
from ._fresh import FreshCritics as FreshCritics, fresh_critic_elbo as fresh_critic_elbo
from ._gaps import InferenceGaps as InferenceGaps, inference_gaps as inference_gaps
from ._importance import importance_bound as importance_bound
from ._information import aggregate_kl as aggregate_kl, mutual_information as mutual_information
from ._own_bound import (
    TrainedOn as TrainedOn,
    critic_upper_bound as critic_upper_bound,
    trained_on as trained_on,
)
from ._smoothed import smoothed_bracket as smoothed_bracket
from ._thickness import thickness as thickness
from ._verdict import Finding as Finding, Verdict as Verdict, judge_critic as judge_critic
