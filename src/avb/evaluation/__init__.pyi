from ._bracket import elbo_bracket as elbo_bracket
from ._critic import critic_elbo as critic_elbo
from ._elbo import elbo as elbo
from ._estimate import Estimate as Estimate
from ._evaluate import Evaluation as Evaluation, evaluate as evaluate
from ._importance import importance_bound as importance_bound
