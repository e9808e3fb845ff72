"""Metrics as people and programs want them: one JSON line a record, one picture a run."""

import io
import json
import os
from pathlib import Path

from bnn_jax.files import write


class MetricsLog:
    """metrics.jsonl, one JSON object a line: a record of every step (`loss`, `accuracy`, `gradient_norm` of its batch,
    `seconds` of training so far) and one of every epoch (`epoch`, means over it, test results). Opened again at the step
    a run resumes from, it drops what lies beyond; `seconds` is where the run's clock goes on. path None: nothing is
    written, as on all hosts but one.
    """

    def __init__(self, path: Path | None, resumed_at: int):
        self.path = path
        self._records = [record for record in (read(path) if path else []) if record['step'] <= resumed_at]
        self.seconds = self._records[-1]['seconds'] if self._records else 0.0
        if path:
            write(path, ''.join(f'{json.dumps(record)}\n' for record in self._records))
        self._file = (path or Path(os.devnull)).open('a')

    def write(self, **record) -> None:
        """Append a record, at once."""
        self._records.append(record)
        self._file.write(f'{json.dumps(record)}\n')
        self._file.flush()

    def epoch(self, step: int, epoch_steps: int, test: dict[str, float], seconds: float) -> dict:
        """Append the record of the epoch that ends at `step`, and return it."""
        steps = [r for r in self._records if 'loss' in r and r['step'] > step - epoch_steps]
        record = {'step': step, 'epoch': step // epoch_steps}
        record |= {f'train_{name}': sum(r[name] for r in steps) / len(steps) for name in ('loss', 'accuracy')}
        record |= {f'test_{name}': test[name] for name in ('loss', 'accuracy')}
        record['seconds'] = seconds
        self.write(**record)
        self._records = [record]
        return record

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def read(path: Path) -> list[dict]:
    """The records of a metrics.jsonl; a last line cut short by a kill is left out. Empty if there is no file."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def plot(path: Path, title: str, records: list[dict]) -> None:
    """curves.png: loss and accuracy over epochs, training (mean over the epoch, training mode) and test."""
    from matplotlib.figure import Figure

    epochs = [record for record in records if 'epoch' in record]
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    for axes, name in zip(figure.subplots(1, 2), ('loss', 'accuracy'), strict=True):
        for split, style in (('train', '--'), ('test', '-')):
            values = [record[f'{split}_{name}'] for record in epochs]
            axes.plot([record['epoch'] for record in epochs], values, style, label=split, marker='.')
        axes.set(xlabel='epoch', ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=120)
    write(path, picture.getvalue())
