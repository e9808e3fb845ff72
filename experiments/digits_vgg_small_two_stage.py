"""Handwritten digits (8x8, from scikit-learn), VGG-small at a quarter of its width, trained in two stages.

The first stage trains binary activations with real weights, in WORKDIR/first. The second stage starts from its parameters
and makes the weights binary as well. Both stages have the same number of epochs, and the second one repeats the whole
schedule of the learning rate. You can interrupt either stage; started again, the run resumes and gives the same result.

Papers: Bi-Real Net, arXiv:1808.00278; Real-to-Binary, arXiv:2003.11535; ReActNet, arXiv:2003.03488.

Command: python -m experiments.digits_vgg_small_two_stage --scheme=SCHEME

There is no published figure. experiments/README.md has our results.
"""

import dataclasses
from functools import partial

from bnn_jax import XNOR
from bnn_jax.training import Config, Recipe, fit, model_of, named
from bnn_jax.training.experiment import main
from bnn_jax.training.two_stage import activations_only, second_stage
from experiments import digits_vgg_small


def after_the_first(second: Config) -> Config:
    """The second stage, which starts from the network of the first. The first stage is trained now, or read if it is done."""
    assert isinstance(second.model, partial)  # as `digits_vgg_small.config` makes it
    model = digits_vgg_small.config(activations_only(second.model.keywords['scheme'])).model
    first = fit(dataclasses.replace(second, model=model, deployed=None, workdir=f'{second.workdir}/first'))
    return dataclasses.replace(second, model=partial(started, model_of(first), second.model))


@named('digits.started')
def started(first, model, **keywords):
    """A model that starts from the first stage's network."""
    return second_stage(model(**keywords), first)


RECIPE = Recipe(
    'digits_vgg_small_two_stage',
    __doc__,
    rows={'XNOR': digits_vgg_small.config(XNOR)},
    other=digits_vgg_small.config,
    prepare=after_the_first,
)

if __name__ == '__main__':
    main(RECIPE)
