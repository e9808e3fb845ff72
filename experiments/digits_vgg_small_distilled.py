"""Handwritten digits (8x8, embedded), VGG-small at a quarter of its width, taught by its float twin.

The teacher is the row `digits_vgg_small --scheme=FLOAT` of the same options (but its own learning rate), trained first, in
WORKDIR/teacher. The student's loss: half the cross-entropy to the labels, half that to the teacher's softmax at
temperature 4 (chosen, not tuned). Started again after any interruption, of teacher or student, it goes on to the same result.

Papers: Hinton, Vinyals and Dean, arXiv:1503.02531; for binary students Real-to-Binary, arXiv:2003.11535, and ReActNet,
arXiv:2003.03488 (the teacher's answers only, at temperature 1).
Command: python -m experiments.digits_vgg_small_distilled --scheme=SCHEME
No published figure to compare with. Obtained: experiments/README.md.
"""

import dataclasses
from functools import partial

from bnn_jax import XNOR
from bnn_jax.training import Config, Recipe, distillation, fit, model_of
from bnn_jax.training.experiment import main
from experiments import digits_vgg_small


def taught(student: Config) -> Config:
    """The student's run with its teacher, which is trained, or read if it is already."""
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
