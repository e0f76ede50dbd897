"""SIGINT and SIGTERM: the first asks to stop, the second stops at once."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclasses.dataclass
class StopRequest:
    """Whether a signal has asked to stop."""

    received: bool = False


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Note the first signal instead of ending; a second one ends the process at once.

    Outside the main thread signals cannot be handled, and nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(_number: int, _frame: object) -> None:
        request.received = True
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
