"""How a command ends when something is wrong: an error is one line, a signal one sentence; never a traceback.

`BNN_DEBUG=1` shows tracebacks. Imported before JAX, which may itself refuse the environment or be interrupted.
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
    import socket  # What few processes need is imported where they need it: every process that imports bnn_jax comes here.

EXPECTED = (OSError, ValueError, ArithmeticError)
"""Errors whose messages say what was got, what was expected and what to do; of others the kind is shown too."""

LONGEST = 1000
"""Characters of a message, at most: JAX's may be pages."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_numbers: 'tuple[socket.socket, ...]' = ()
"""The ends of a line for the numbers of signals, from the system to the thread that waits for them; () before `begin`."""


def begin() -> None:
    """Have this process end as a command does, from here to its last moment: for processes that are nothing else.

    An error that nobody catches is one line on stderr and exit status 1. SIGINT and SIGTERM end the process at once, also
    while XLA compiles, with a sentence and status 128 + the signal's number; where a handler was set meanwhile
    (`training.signals`), the second one does. Without effect when called again.
    """
    global _numbers
    if _numbers or threading.current_thread() is not threading.main_thread():
        return
    import socket

    _numbers = socket.socketpair()
    _numbers[1].setblocking(False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')  # A name may hold what the terminal's encoding lacks.
    if not debugging():
        sys.excepthook = _report
        # What goes wrong in a thread or a destructor is told by the main thread, or nobody can do anything about it.
        threading.excepthook = lambda arguments: None
        sys.unraisablehook = lambda arguments: None
    # Python runs handlers between two of its instructions; a thread that waits for the number of the signal is faster.
    threading.Thread(target=_watch, daemon=True).start()
    signal.set_wakeup_fd(_numbers[1].fileno(), warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, _left_to_the_thread)
    # Registered first, so run last. Afterwards there is no thread any more.
    atexit.register(_at_the_end)
    if reason := _refused_flags():
        raise SystemExit(f'error: {reason}')


def begin_if_started_as(*packages: str) -> None:
    """`begin`, where this process was started as `python -m` one of these packages, or a module in them, or as bnn-jax."""
    arguments = list(sys.orig_argv[1:])
    module = arguments[arguments.index('-m') + 1 :][:1] if '-m' in arguments else []
    script = os.path.basename(sys.argv[0]) if sys.argv else ''
    if (module and module[0].partition('.')[0] in packages) or script.removesuffix('.exe') == 'bnn-jax':
        begin()


@contextlib.contextmanager
def quiet_interrupt() -> Iterator[None]:
    """Where Ctrl-C meanwhile ends the program, it says so in a word instead of a traceback; nothing else is changed."""
    try:
        yield
    except KeyboardInterrupt:
        if sys.excepthook is sys.__excepthook__ and not debugging():
            sys.excepthook = _report_interrupt
        raise


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn an error into its message, `error: ...`, and exit status 1; a reader of stdout that is gone into status 1."""
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
    """Whether tracebacks are to be shown: the environment has BNN_DEBUG."""
    return os.environ.get('BNN_DEBUG', '') not in ('', '0')


def sentence(error: BaseException) -> str:
    """What an error says, in one line."""
    text = ' '.join(str(error).split())
    if not isinstance(error, EXPECTED):
        text = ': '.join(part for part in (_kind(error), text) if part)
        text = _no_device() or f'{text} (BNN_DEBUG=1 shows where)'
    half = LONGEST // 2
    text = text if len(text) <= LONGEST else f'{text[:half]} ... {text[-half:]}'
    return text or _kind(error)


def _kind(error: BaseException) -> str:
    return 'not enough memory' if isinstance(error, MemoryError) else type(error).__name__


def _no_device() -> str:
    """What JAX says where it finds no device of the kind that JAX_PLATFORMS asks for, which shows in errors of all kinds."""
    jax, asked = sys.modules.get('jax'), os.environ.get('JAX_PLATFORMS')
    if not asked or not hasattr(jax, 'devices'):
        return ''
    try:
        jax.devices()  # pyright: ignore[reportOptionalMemberAccess]
    except Exception as error:
        reason = ' '.join(str(error).split())[:LONGEST]
        return f'JAX_PLATFORMS: got {asked!r}, of which JAX finds no device here{f" ({reason})" if reason else ""}'
    return ''


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """sys.excepthook of a command. C code may call it in threads of its own, whose errors the main thread gets."""
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
    """sys.excepthook of a program in which Ctrl-C met an import."""
    if isinstance(error, KeyboardInterrupt):
        _say('interrupted')
    else:
        sys.__excepthook__(kind, error, trace)


def _give_up_stdout() -> None:
    """Nobody reads it: what is left in it must not be an error again when Python ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f'{text}\n'.encode('utf-8', 'backslashreplace'))


def _left_to_the_thread(number, frame) -> None:
    """The handler in Python: what there is to do, `_watch` does."""


def _watch() -> None:
    """The thread that ends the process."""
    received = 0
    while data := _numbers[0].recv(1):
        number = data[0]
        if number not in SIGNALS:
            continue
        received += 1
        if received > 1 or signal.getsignal(number) is _left_to_the_thread:
            _say(f'stopped by {signal.Signals(number).name}')
            os._exit(128 + number)


def _refused_flags() -> str:
    """What XLA says against XLA_FLAGS. It would end the process, so another one asks it; this takes a third of a second."""
    flags = os.environ.get('XLA_FLAGS')
    if not flags:
        return ''
    import subprocess

    ask = [sys.executable, '-c', 'from jaxlib import _jax; _jax.CompileOptions()']
    done = subprocess.run(ask, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace')
    if done.returncode == 0 or 'Error' in done.stderr.rstrip().rpartition('\n')[2]:
        return ''
    said = done.stderr.strip().partition('\n')[0].rpartition('] ')[2]
    return f'XLA_FLAGS: got {flags!r}, which XLA refuses ({said[:LONGEST]})'


def _at_the_end() -> None:
    """What was printed must arrive; from here on a signal ends the process by itself."""
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
