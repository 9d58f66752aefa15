"""As much of Ray's interface as `evidence/cluster.py` uses, on threads: what our code does with its answers.

The real one is started by the slow test of test_executors.py.
"""

import sys
import threading
import types


class RayError(Exception):
    """Ray's base class."""


class RayTaskError(RayError):
    """The function raised."""


class TaskCancelledError(RayError):
    """Cancelled before it began."""


class WorkerCrashedError(RayError):
    """The worker died."""


class Task:
    """A thread that runs a function."""

    def __init__(self, function, arguments):
        self.answer, self.cancelled = None, threading.Event()
        self.thread = threading.Thread(target=self._run, args=(function, arguments), daemon=True)
        self.thread.start()

    def _run(self, function, arguments):
        try:
            self.answer = function(*arguments)
        except RayError as error:
            self.answer = error
        except Exception as error:
            self.answer = RayTaskError(repr(error))


def install(monkeypatch, *, cpus=(1, 1), crash=0):
    """Put the module in the place of ray. crash: the first so many tasks die. -> the module, with a log of calls."""
    ray = types.ModuleType("ray")
    ray.exceptions = types.SimpleNamespace(
        RayError=RayError,
        RayTaskError=RayTaskError,
        TaskCancelledError=TaskCancelledError,
        WorkerCrashedError=WorkerCrashedError,
    )
    ray.asked, ray.cancelled, ray.open, left = [], [], False, [crash]

    def init(**options):
        ray.open = options
        return types.SimpleNamespace(address_info={"session_dir": ""})

    def shutdown():
        ray.open = False

    def remote(**resources):
        ray.asked.append(resources)

        def wrap(function):
            def start(*arguments):
                left[0] -= 1
                if left[0] >= 0:
                    return Task(lambda *_: (_ for _ in ()).throw(WorkerCrashedError("the node died")), arguments)
                return Task(function, arguments)

            return types.SimpleNamespace(remote=start)

        return wrap

    def get(task):
        if isinstance(task.answer, Exception):
            raise task.answer
        return task.answer

    def cancel(task, force):
        ray.cancelled.append(force)
        task.answer = TaskCancelledError()

    ray.init, ray.shutdown, ray.remote, ray.get, ray.cancel = init, shutdown, remote, get, cancel
    ray.is_initialized = lambda: bool(ray.open)
    ray.nodes = lambda: [{"Alive": True, "Resources": {"CPU": float(n), "memory": 2.0**32}} for n in cpus]
    ray.wait = lambda tasks, timeout: ([t for t in tasks if not t.thread.is_alive() or t.answer is not None], [])
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray
