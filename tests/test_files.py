"""Files written whole or not at all."""

import errno
import os

import pytest

from bnn_jax.files import write


@pytest.mark.parametrize('content', [b'\0\1', 'text\n'])
def test_a_file_is_replaced(tmp_path, content):
    path = tmp_path / 'file'
    for _ in range(2):
        write(path, content)
        assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / 'file'
    path.write_text('before')

    def fails(*_):
        raise error

    monkeypatch.setattr(os, 'fsync', fails)
    with pytest.raises(type(error), match='the old file is unchanged' if isinstance(error, OSError) else None):
        write(path, 'after')
    assert path.read_text() == 'before' and list(tmp_path.iterdir()) == [path]


def test_a_missing_folder(tmp_path):
    with pytest.raises(OSError, match='could not write 1 bytes.*choose another place') as error:
        write(tmp_path / 'no' / 'file', 'x')
    assert error.value.errno == errno.ENOENT and str(tmp_path) in str(error.value)
