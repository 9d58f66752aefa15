"""Collectors in threads of the test's own process, which can be killed and watched: `run/collector_work.py` at once."""

from __future__ import annotations

import pickle
import queue
import threading
import time

from reverie.run.collector_work import Weights, Work, failed


class ThreadHandle:
    """A collector in a thread. made: rows so far; works: its `Work`."""

    where = "a thread"

    def __init__(self, task, deliver, transport):
        self.task, self.transport, self._deliver = pickle.loads(task), transport, deliver
        self.asked, self.weights = queue.SimpleQueue(), Weights()
        self.made, self.most_asked, self.dead, self.work, self.versions = 0, 0, False, None, []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.work = Work(self.task, self.weights)
        except Exception as error:
            self.deliver(failed(error))
            return
        while (count := self.asked.get()) and not self.dead:
            self.transport.before(self)
            while count > 0 and not self.dead:
                block = self.work.make(count)
                self.made += len(block.versions)
                self.versions += block.versions
                self.deliver(block)
                count = 0 if block.fault is not None else count - len(block.versions)
        self.work.close()

    def deliver(self, answer):
        if not self.dead:
            self._deliver(self, answer)

    def ask(self, rows):
        self.most_asked += rows
        self.asked.put(rows)

    def load(self, version, weights):
        self.weights.newest = version, weights

    def close(self):
        self.asked.put(0)

    def end(self, until):
        self.dead = True
        self.asked.put(0)
        self.thread.join(max(0.0, until - time.monotonic()))
        return []

    def die(self, why="was killed by SIGKILL"):
        """As a process that a signal ends."""
        self.deliver(why)
        self.dead = True


class ThreadTransport:
    """handles: all that were ever started; before: called with one before each request; gone: the transport's end."""

    def __init__(self, before=lambda handle: None):
        self.handles, self.before, self.gone, self.closed = [], before, "", False

    def start(self, task, deliver):
        self.handles.append(ThreadHandle(task, deliver, self))
        return self.handles[-1]

    def pack(self, weights):
        return weights

    def trouble(self):
        return self.gone

    def close(self):
        self.closed = True
