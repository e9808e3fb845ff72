"""Handwritten digits (8x8, from scikit-learn), VGG-small at a quarter of its width, taught by its float baseline.

The run first trains the teacher, in WORKDIR/teacher: the row `digits_vgg_small --scheme=FLOAT` with the same options,
except for its own learning rate. The student's loss is half the cross-entropy with the labels, half `soft_cross_entropy` with
the teacher's logits at temperature 4 (chosen, not tuned). You can interrupt teacher or student; started again, the run
resumes and gives the same result.

Papers: Hinton, Vinyals and Dean, arXiv:1503.02531. For binary students: Real-to-Binary, arXiv:2003.11535, and ReActNet,
arXiv:2003.03488, whose loss uses only the teacher's softmax, at temperature 1.

Command: python -m experiments.digits_vgg_small_distilled --scheme=SCHEME

There is no published figure. experiments/README.md has our results.
"""

import dataclasses
from functools import partial

from bnn_jax import XNOR
from bnn_jax.training import Config, Recipe, distillation, fit, model_of
from bnn_jax.training.experiment import main
from experiments import digits_vgg_small


def taught(student: Config) -> Config:
    """The student's config, with its teacher in the loss. The teacher is trained first, or read if it has been trained."""
    twin = digits_vgg_small.RECIPE.row('FLOAT')
    own = {name: getattr(twin, name) for name in ('model', 'deployed', 'learning_rate', 'recipe', 'row')}
    teacher = fit(dataclasses.replace(student, workdir=f'{student.workdir}/teacher', **own))
    return dataclasses.replace(student, loss=partial(distillation, model_of(teacher), temperature=4.0, share=0.5))


RECIPE = Recipe(
    'digits_vgg_small_distilled',
    __doc__,
    rows={'XNOR': digits_vgg_small.config(XNOR)},
    other=digits_vgg_small.config,
    prepare=taught,
)

if __name__ == '__main__':
    main(RECIPE)
