from ._adversary import (
    diagnosis_table as diagnosis_table,
    draw_adversary as draw_adversary,
    draw_diagnosis as draw_diagnosis,
)
from ._bounds import (
    draw_annealing as draw_annealing,
    draw_bracket as draw_bracket,
    draw_weights as draw_weights,
)
from ._calibration import (
    draw_rank_histograms as draw_rank_histograms,
    draw_two_samples as draw_two_samples,
)
from ._curves import draw_curves as draw_curves
from ._evaluation import draw_evaluation as draw_evaluation
from ._latent import draw_latent as draw_latent
from ._pictures import draw_reconstructions as draw_reconstructions, draw_samples as draw_samples
from ._posterior_grid import draw_posterior_grid as draw_posterior_grid
from ._run import draw_run as draw_run
from ._tables import (
    comparison_table as comparison_table,
    evaluation_table as evaluation_table,
    methods_table as methods_table,
)
