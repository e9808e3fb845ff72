"""How a command ends when something is wrong: an error prints one line, a signal prints one sentence.

Only `BNN_DEBUG=1` shows tracebacks. This module is imported before JAX, since importing JAX may itself fail or be interrupted.
"""

import atexit
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket  # Imported where it is needed: every process that imports bnn_jax imports this module, but few call `begin`.

EXPECTED = (OSError, ValueError, ArithmeticError)
"""Errors whose messages say what was got, what was expected and what to do. For other errors, the class is printed too."""

LONGEST = 1000
"""Longer messages are cut to about this many characters. JAX's own messages may fill pages."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_numbers: 'tuple[socket.socket, ...]' = ()
"""Two connected sockets: Python writes the number of a signal into one, `_watch` reads it from the other. () before `begin`."""


def begin() -> None:
    """Make this process end as a command does. Call this only in a process that runs a command.

    An uncaught error prints one line on stderr, and the exit status is 1. SIGINT and SIGTERM end the process at once, even
    while XLA compiles; they print a sentence, and the status is 128 + the signal's number. While other handlers are set
    (`training.signals`), only the second signal ends the process. A second call of `begin` has no effect,
    nor has a call outside the main thread. All threads that start later allocate from one heap (`command.heap.one_heap`).

    Raises:
        SystemExit: XLA refuses the flags in $XLA_FLAGS.
    """
    global _numbers
    if _numbers or threading.current_thread() is not threading.main_thread():
        return
    import socket

    from bnn_jax.command.heap import one_heap

    _numbers = socket.socketpair()
    _numbers[1].setblocking(False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors='backslashreplace'
            )  # A name may have characters that the terminal's encoding lacks.
    if not debugging():
        sys.excepthook = _report
        # The main thread reports those errors of other threads that matter; an error in a destructor helps nobody.
        threading.excepthook = lambda arguments: None
        sys.unraisablehook = lambda arguments: None
    # Before the first thread, which would get a heap of its own, and XLA's threads would use that heap too.
    one_heap()
    # Python runs a signal handler only between two of its instructions, so not while XLA compiles. The thread reacts at once.
    threading.Thread(target=_watch, daemon=True).start()
    signal.set_wakeup_fd(_numbers[1].fileno(), warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, _left_to_the_thread)
    # Registered first, so it runs last. Afterward Python stops the thread.
    atexit.register(_at_the_end)
    if reason := _refused_flags():
        raise SystemExit(f'error: {reason}')


def begin_if_started_as(*packages: str) -> None:
    """Call `begin` if this process was started as a command.

    Args:
        packages: `python -m` with one of these packages, or with a module in one, is a command. So is `bnn-jax`.
    """
    arguments = list(sys.orig_argv[1:])
    module = arguments[arguments.index('-m') + 1 :][:1] if '-m' in arguments else []
    script = os.path.basename(sys.argv[0]) if sys.argv else ''
    if (module and module[0].partition('.')[0] in packages) or script.removesuffix('.exe') == 'bnn-jax':
        begin()


@contextlib.contextmanager
def quiet_interrupt() -> Iterator[None]:
    """If Ctrl-C ends the program inside this context, print `interrupted` instead of a traceback.

    Example:
        >>> with quiet_interrupt():
        ...     import json
    """
    try:
        yield
    except KeyboardInterrupt:
        if sys.excepthook is sys.__excepthook__ and not debugging():
            sys.excepthook = _report_interrupt
        raise


@contextlib.contextmanager
def of_extra(extra: str) -> Iterator[None]:
    """Make the error of a failed import inside this context name the extra that installs the missing package.

    Args:
        extra: `deploy`, `train`, ...

    Raises:
        ModuleNotFoundError: an import inside fails because a package is not installed.

    Example:
        >>> with of_extra('train'):
        ...     import absent
        Traceback (most recent call last):
        ModuleNotFoundError: absent: not installed, expected the extra `train`: pip install '.[train]' in a clone of bnn_jax
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name}: not installed, expected the extra `{extra}`: pip install '.[{extra}]' in a clone of bnn_jax",
            name=error.name,
        ) from error


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn an error inside this context into the line `error: ...` and exit status 1.

    A closed stdout (as in `bnn-jax ... | head -1`) gives status 1 and no message.

    Raises:
        SystemExit: in place of the error. With BNN_DEBUG=1 the error itself is raised.

    Example:
        >>> with one_line():
        ...     int('three')
        Traceback (most recent call last):
        SystemExit: error: invalid literal for int() with base 10: 'three'
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _give_up_stdout()
        raise SystemExit(1) from None
    except Exception as error:
        if debugging():
            raise
        raise SystemExit(f'error: {sentence(error)}') from None


def debugging() -> bool:
    """Whether to show tracebacks: BNN_DEBUG is set, and is neither empty nor 0.

    Example:
        >>> debugging() == (os.environ.get('BNN_DEBUG', '') not in ('', '0'))
        True
    """
    return os.environ.get('BNN_DEBUG', '') not in ('', '0')


def sentence(error: BaseException) -> str:
    """The message of an error in one line, with the name of its class if the error is not one of `EXPECTED`.

    Args:
        error: any error.

    Returns:
        At most about 1,000 characters.

    Example:
        >>> sentence(ValueError('two\\nlines')), sentence(TypeError('odd'))
        ('two lines', 'TypeError: odd (BNN_DEBUG=1 shows where)')
    """
    text = ' '.join(str(error).split())
    if not isinstance(error, EXPECTED):
        text = ': '.join(part for part in (_kind(error), text) if part)
        # If there is no device of the kind that JAX_PLATFORMS asks for, JAX raises errors of many kinds. `_no_device` says why.
        text = _no_device() or f'{text} (BNN_DEBUG=1 shows where)'
    half = LONGEST // 2
    text = text if len(text) <= LONGEST else f'{text[:half]} ... {text[-half:]}'
    return text or _kind(error)


def _kind(error: BaseException) -> str:
    return 'not enough memory' if isinstance(error, MemoryError) else type(error).__name__


def _no_device() -> str:
    """An error message if JAX finds no device of the kind that JAX_PLATFORMS asks for, else ''."""
    jax, asked = sys.modules.get('jax'), os.environ.get('JAX_PLATFORMS')
    if not asked or not hasattr(jax, 'devices'):
        return ''
    try:
        jax.devices()  # pyright: ignore[reportOptionalMemberAccess]
    except Exception as error:
        reason = ' '.join(str(error).split())[:LONGEST]
        return f'JAX_PLATFORMS: got {asked!r}, but JAX finds no such device here{f" ({reason})" if reason else ""}'
    return ''


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """sys.excepthook of a command. C code may call it in other threads, whose errors reach the main thread anyway."""
    if threading.current_thread() is not threading.main_thread():
        return
    if isinstance(error, BrokenPipeError):
        _give_up_stdout()
    elif isinstance(error, KeyboardInterrupt):
        _say('interrupted')
    elif isinstance(error, Exception):
        _say(f'error: {sentence(error)}')
    else:
        import traceback

        traceback.print_exception(kind, error, trace)


def _report_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """sys.excepthook of a program that Ctrl-C interrupted during an import of this library."""
    if isinstance(error, KeyboardInterrupt):
        _say('interrupted')
    else:
        sys.__excepthook__(kind, error, trace)


def _give_up_stdout() -> None:
    """Send the rest of stdout to os.devnull. Nobody reads it, and writing it must not fail again when Python ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f'{text}\n'.encode('utf-8', 'backslashreplace'))


def _left_to_the_thread(number, frame) -> None:
    """The signal handler in Python. It does nothing, because `_watch` does the work."""


def _watch() -> None:
    """The thread that ends the process when a signal arrives."""
    received = 0
    while data := _numbers[0].recv(1):
        number = data[0]
        if number not in SIGNALS:
            continue
        received += 1
        # Another handler, such as the one of a training run, may save first. A second signal does not wait for that.
        if received > 1 or signal.getsignal(number) is _left_to_the_thread:
            _say(f'stopped by {signal.Signals(number).name}')
            os._exit(128 + number)


def _refused_flags() -> str:
    """An error message if XLA refuses XLA_FLAGS, else ''.

    XLA ends the process if a flag is wrong, so the flags are tried in a child process.
    """
    flags = os.environ.get('XLA_FLAGS')
    if not flags:
        return ''
    import subprocess

    # This takes a third of a second, but only if flags are set.
    ask = [sys.executable, '-c', 'from jaxlib import _jax; _jax.CompileOptions()']
    done = subprocess.run(ask, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace')
    if done.returncode == 0 or 'Error' in done.stderr.rstrip().rpartition('\n')[2]:
        return ''
    said = done.stderr.strip().partition('\n')[0].rpartition('] ')[2]
    return f'XLA_FLAGS: got {flags!r}, which XLA refuses ({said[:LONGEST]})'


def _at_the_end() -> None:
    """Flush stdout, and restore the system's own handling of signals."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _give_up_stdout()
        if not isinstance(error, BrokenPipeError):
            _say(f'error: stdout cannot be written: {error}')
        os._exit(1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
