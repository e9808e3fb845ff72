"""Checkpoints of a run, by Orbax: written whole or not at all, kept until a newer one is whole."""

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.training.config import check_description
from bnn_jax.training.devices import as_kind_of, numbers_of
from bnn_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one working directory: the newest states of a run and the config it was made with.

    kept: how many of them; the one before is for when the newest is damaged. read_only: another process may be writing there.
    """

    def __init__(self, directory: Path, config: dict, kept: int = 2, read_only: bool = False):
        import orbax.checkpoint as ocp

        self._ocp, self.directory, self.config = ocp, directory, config
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else kept, enable_async_checkpointing=not read_only, read_only=read_only
        )
        logging.getLogger('absl').addFilter(_told_by_us)
        try:
            self._manager = ocp.CheckpointManager(directory.absolute(), options=options)
        except Exception as error:  # Orbax raises errors of every kind for folders that are not as it left them.
            reason = _short(f'{type(error).__name__}: {error}')
            raise ValueError(
                f'checkpoints {directory} cannot be opened ({reason}); mend or move that folder, or choose another --workdir'
            ) from error
        # It would ask JAX about steps, in between the numbers that `signals.Signals` counts.
        self._manager.reached_preemption = lambda step: False

    def save(self, state: TrainState) -> None:
        """Write the state under its step, in the background; what was kept of later steps goes.

        Raises as `wait` does for the one before, and OSError where nothing is written.
        """
        step = int(state.step)
        if step == self._manager.latest_step():
            return
        arrays, meta = _arrays(state), self._meta(state)
        arguments = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(arrays),
            meta=self._ocp.args.JsonSave(meta | {'sha256': _digest(arrays, meta)}),
        )
        try:
            # Where the best was newer than the checkpoint that a run goes on from; Orbax writes no earlier step than it has.
            for later in [each for each in self._manager.all_steps() if each > step]:
                self._manager.delete(later)
            written = self._manager.save(step, args=arguments)
        except (OSError, ValueError) as error:  # Orbax hands on a ValueError where TensorStore could not write
            raise self._failed(error) from error
        if not written:
            raise self._failed(OSError(errno.EIO, f'Orbax left out step {step}'))

    def restore(self, state: TrainState, extended: Callable[[int, int], None] | None = None) -> TrainState:
        """The newest state, or `state` itself if there is none yet.

        extended: called with its epochs and step where it is of a run with fewer epochs and of the same config otherwise;
        raises ValueError if that is not the beginning of this run. None: such a run is another one.
        Raises ValueError for a checkpoint of another model or another config, naming the first difference, and for one
        that cannot be read.
        """
        step = self._manager.latest_step()
        if step is None:
            return state
        meta = self._read(step, 'meta', self._ocp.args.JsonRestore())
        if not (isinstance(meta, dict) and all(isinstance(meta.get(key), dict) for key in ('config', 'arrays'))):
            raise self._damaged(step, 'its meta has no config and no arrays')
        digest = meta.pop('sha256', None)
        theirs, ours = meta['config'], self.config
        epochs = theirs.get('epochs')
        if extended and 'epochs' in ours and isinstance(epochs, int) and 0 < epochs < ours['epochs']:
            same = {**theirs, 'epochs': ours['epochs']}
            if first_difference('', same, json.loads(json.dumps(ours))) is None:
                extended(epochs, step)
                theirs = same
        self._check({**meta, 'config': theirs}, state)
        arrays = self._read(step, 'state', self._ocp.args.StandardRestore(_arrays(state)))
        if digest != _digest(arrays, meta):
            raise self._damaged(step, 'its checksum differs')
        leaves, structure = jax.tree.flatten(state)
        # The names are numbers of five digits: in their order, the leaves are in theirs.
        restored = [jnp.asarray(arrays[name]) for name in sorted(arrays)]
        return jax.tree.unflatten(structure, map(as_kind_of, leaves, restored))

    def _read(self, step: int, item: str, arguments):
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(**{item: arguments}))[item]
        except Exception as error:  # as for folders
            raise self._damaged(step, f'{type(error).__name__}: {error}') from error

    def _damaged(self, step: int, reason: str) -> ValueError:
        return ValueError(
            f'checkpoint {self.directory}/{step} cannot be read ({_short(reason)}); '
            'delete that folder to go on from the one before, or choose another --workdir'
        )

    def last(self) -> Path | None:
        """The newest checkpoint that is whole."""
        self.wait()
        step = self._manager.latest_step()
        return None if step is None else self.directory / str(step)

    def wait(self) -> None:
        """Return when everything is on disk. Raises OSError, with the remedy, where it could not be written."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()
        logging.getLogger('absl').removeFilter(_told_by_us)

    def _failed(self, error: OSError | ValueError) -> OSError:
        # TensorStore tells in a page what the system said in a word.
        said = re.search(r"os_error_code='(\d+)'|OS error (\d+)", str(error))
        number = getattr(error, 'errno', None) or (int(said[1] or said[2]) if said else errno.EIO)
        reason = os.strerror(number) if said else getattr(error, 'strerror', None) or _short(str(error))
        return OSError(
            number,
            f'could not write a checkpoint ({reason}); earlier checkpoints are kept. '
            'Free space, then start the same command again',
            str(self.directory),
        )

    def _meta(self, state: TrainState) -> dict:
        return {'config': self.config, 'arrays': _layout(state)}

    def _check(self, meta: dict, state: TrainState) -> None:
        expected = self._meta(state)
        remedy = f'use another --workdir, or delete {self.directory} to start anew'
        if 'description' in expected['config']:
            check_description(meta['config'], f'checkpoint {self.directory}', remedy)
        difference = first_difference('', meta['config'], json.loads(json.dumps(expected['config'])))
        if difference:
            key, theirs, ours = difference
            raise ValueError(
                f'checkpoint {self.directory}: was made with {key} = {theirs!r}, this run has {ours!r}; {remedy}'
            )
        for key in sorted({*meta['arrays'], *expected['arrays']}):
            theirs, ours = meta['arrays'].get(key), expected['arrays'].get(key)
            if theirs != ours:
                raise ValueError(
                    f'checkpoint {self.directory}: is of another model: {key} is {theirs}, this model has {ours}; {remedy}'
                )


def _told_by_us(record: logging.LogRecord) -> bool:
    """Not what Orbax logs, tracebacks of its threads among it: what went wrong there, `wait` and `save` raise."""
    return 'orbax' not in record.pathname


def _short(reason: str) -> str:
    return reason if len(reason) <= 300 else f'{reason[:300]} ...'


def _arrays(state: TrainState) -> dict[str, np.ndarray]:
    """All arrays of the state under sortable names: a checkpoint depends on no class of any library.

    They are copied: while they are being written the next steps reuse the state's buffers.
    """
    return {f'{i:05d}': np.array(numbers_of(leaf)) for i, leaf in enumerate(jax.tree.leaves(state))}


def first_difference(path: str, theirs, ours) -> tuple[str, Any, Any] | None:
    """The first place where two JSON values differ, and what stands there; None if they are equal.

    A key that one of them lacks counts as None, so that a field added later, None by default, is no difference.
    """
    if theirs == ours:
        return None
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            inner = first_difference(f'{path}.{key}' if path else key, theirs.get(key), ours.get(key))
            if inner:
                return inner
        return None
    return path, theirs, ours


def _digest(arrays: dict[str, np.ndarray], meta: dict) -> str:
    """SHA-256 of everything a checkpoint holds: Orbax does not notice every changed byte."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _layout(state: TrainState) -> dict[str, str]:
    """Path -> dtype and shape, for comparison and for people."""
    return {
        jax.tree_util.keystr(path): f'{leaf.dtype}{list(np.shape(leaf))}'
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
