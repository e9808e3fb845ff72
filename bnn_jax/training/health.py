"""Healthy ranges of what a run watches, and one sentence for a value that has left its range.

The ranges come from runs that went well and runs that did not: docs/what_trains.md.
"""

from collections.abc import Iterable

EQUAL_LOGITS = 0.01
"""Share of images whose logits are all equal, at most."""

FLIPS, SETTLED = 0.01, 100
"""Share of all signs that flip in one step, at most, once so many steps are done: the first steps choose most signs."""

ALPHA = 0.1
"""Alpha of a layer over its value at the start, at least."""

STATISTICS_GAP = 0.1
"""Accuracy with batch statistics less that with running statistics, on the same test images, at most."""


def unhealthy(record: dict) -> dict[str, str]:
    """What of a record is out of its range: the quantity -> a sentence with what was seen, what is healthy, what to do.

    Args:
        record: of a step that was watched, or of an epoch, as metrics.jsonl has them; other records are healthy.
    """
    found = {}
    equal = max(record.get('equal_logits', 0.0), record.get('running_statistics/equal_logits', 0.0))
    if equal > EQUAL_LOGITS:
        found['equal_logits'] = (
            f'{equal:.0%} of the images have logits that are all equal (healthy: none), so nothing is learned from them; '
            'the likely cause is a ReLU at the last layer that is 0 everywhere: rectify its input or its output, not both, or '
            'use a smaller --learning_rate'
        )
    flips = record.get('flips', 0.0)
    if flips > FLIPS and record['step'] > SETTLED:
        found['flips'] = (
            f'{flips:.1%} of all signs flip in one step (healthy after {SETTLED} steps: under {FLIPS:.0%}), so the network '
            'does not keep what it learns; the likely cause is weight decay of latent weights or a high rate: exclude latent '
            'weights from weight decay, or use a smaller --learning_rate'
        )
    ratios = {name: value for name, value in record.items() if name.startswith('alpha_over_start/')}
    least = min(ratios, key=ratios.__getitem__, default=None)
    if least is not None and ratios[least] < ALPHA:
        found['alpha'] = (
            f'alpha of layer {least.partition("/")[2]} is {ratios[least]:.2g} of what it was at the start (healthy: above '
            f'{ALPHA:g}), and the gradient of its latent weights shrinks with it; the likely cause is weight decay: exclude '
            'latent weights from it'
        )
    running, batch = (record.get(f'{kind}_statistics/accuracy', 0.0) for kind in ('running', 'batch'))
    if batch - running > STATISTICS_GAP:
        found['statistics'] = (
            f'the same test images are classified {batch:.0%} right with batch statistics and {running:.0%} with running '
            f'statistics (healthy: within {100 * STATISTICS_GAP:.0f} points); the running statistics lag behind weights that '
            'change fast: use a smaller --learning_rate, or judge the run when its rate has fallen'
        )
    return found


class Health:
    """Warns of each quantity once in a run; flips only when two looks in a row are too many.

    Args:
        records: those of the run so far, so that a resumed run says nothing twice.
    """

    def __init__(self, records: Iterable[dict] = ()):
        self._said: set[str] = set()
        self._many_flips = False
        # Nothing is printed of these: they were warned of before the run was interrupted.
        for record in records:
            self.warnings(record)

    def warnings(self, record: dict) -> list[str]:
        """The sentences that a new record calls for, see `unhealthy`."""
        found = unhealthy(record)
        if 'flips' in record:
            self._many_flips, before = 'flips' in found, self._many_flips
            if not before:
                found.pop('flips', None)
        new = [sentence for name, sentence in found.items() if name not in self._said]
        self._said |= found.keys()
        return new
