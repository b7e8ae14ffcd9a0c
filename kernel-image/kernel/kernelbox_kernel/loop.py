"""What every zygote is: a single-threaded loop over sockets and children, that forks."""

import os
import selectors
import signal
import socket
from typing import Any

from kernelbox_kernel import process

HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Loop:
    """Waits for sockets and children. A byte in a pipe tells of a signal, so that none is missed between two waits."""

    def __init__(self) -> None:
        # Not epoll: that is a descriptor, whose late closing in a child would hit one of the child's own.
        self.selector = selectors.PollSelector()
        self.ending = False
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.selector.register(self._woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
        process.prctl(process.PR_SET_DUMPABLE, 0)

    def _terminate(self, *_: Any) -> None:
        self.ending = True

    def wait(self, seconds: float | None = None) -> list[Any]:
        """Wait for any of what is registered, or a signal; what is ready."""
        ready = [key.fileobj for key, _ in self.selector.select(seconds)]
        if self._woken in ready:
            ready.remove(self._woken)
            os.read(self._woken, 4096)
        return ready

    def fork(self, keep: socket.socket | None = None) -> int:
        """Fork. The child has no descriptors but the standard ones and `keep`, and no handlers.

        Signals wait meanwhile: one meant for the child would else be taken by a handler that is still the zygote's.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for number in HANDLED:
                    signal.signal(number, signal.SIG_DFL)
                self._close_all(keep)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid

    def _close_all(self, keep: socket.socket | None) -> None:
        # Sockets before their descriptors: a late finaliser would close somebody else's.
        for key in list(self.selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket) and key.fileobj is not keep:
                key.fileobj.close()
        self.selector.close()
        limit = os.sysconf("SC_OPEN_MAX")
        kept = keep.fileno() if keep is not None else 2
        os.closerange(3, kept)
        os.closerange(kept + 1, limit)
