from ._elbo import critic_elbo as critic_elbo, elbo as elbo, elbo_bracket as elbo_bracket
from ._estimate import Estimate as Estimate
from ._evaluate import Evaluation as Evaluation, evaluate as evaluate
from ._importance import importance_bound as importance_bound
