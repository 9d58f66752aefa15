"""As much of Ray's interface as `run/collector_ray.py` uses, on threads: what our code does with its answers.

An actor has a thread for each concurrency group, and everything goes through cloudpickle, as between processes. The
real one is started by the slow test of test_collector_ray.py.
"""

import socket
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import cloudpickle


class RayActorError(Exception):
    """The actor died."""


class Ref:
    """An object reference: a future, or a value."""

    def __init__(self, future=None, value=None):
        self.future, self.value = future, value


class Method:
    """A method of an actor: `.remote(...)`, `.options(concurrency_group=...).remote(...)`."""

    def __init__(self, actor, name, group="default"):
        self.actor, self.name, self.group = actor, name, group

    def options(self, concurrency_group):
        assert concurrency_group in self.actor.groups
        return Method(self.actor, self.name, concurrency_group)

    def remote(self, *arguments):
        sent = cloudpickle.dumps([each.value if isinstance(each, Ref) else each for each in arguments])
        return Ref(self.actor.groups[self.group].submit(self.actor.call, self.name, sent))


class Actor:
    """A handle of an actor, and the actor."""

    def __init__(self, ray, cls, groups, arguments):
        self.ray, self.dead = ray, False
        self.groups = {name: ThreadPoolExecutor(1) for name in ("default", *groups)}
        self.inside = cls(*cloudpickle.loads(cloudpickle.dumps(arguments)))

    def __getattr__(self, name):
        return Method(self, name)

    def call(self, name, sent):
        if self.dead:
            raise RayActorError("The actor died unexpectedly before finishing this task.\n\tclass_name: RayCollector")
        answer = getattr(self.inside, name)(*cloudpickle.loads(sent))
        self.ray.calls.append(name)
        if self.dead:
            raise RayActorError("The actor died unexpectedly before finishing this task.\n\tclass_name: RayCollector")
        return cloudpickle.loads(cloudpickle.dumps(answer))


def install(monkeypatch, *, cores=(2, 2)):
    """Put the module in the place of ray. -> the module: actors, what was asked for, and `die()` for its head."""
    ray = types.ModuleType("ray")
    ray.actors, ray.asked, ray.calls, ray.open, ray.killed = [], [], [], False, 0
    head = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{head.getsockname()[1]}"

    def init(**options):
        ray.open = options or True
        return types.SimpleNamespace(address_info={"session_dir": ""})

    def shutdown():
        ray.open = False
        head.close()

    def remote(concurrency_groups, **resources):
        ray.asked.append(resources)

        def start(cls, *arguments):
            ray.actors.append(Actor(ray, cls, concurrency_groups, arguments))
            return ray.actors[-1]

        return lambda cls: types.SimpleNamespace(remote=lambda *arguments: start(cls, *arguments))

    def kill(actor):
        ray.killed += not actor.dead
        actor.dead = True

    ray.init, ray.shutdown, ray.remote, ray.kill, ray.die = init, shutdown, remote, kill, head.close
    ray.is_initialized = lambda: bool(ray.open)
    ray.nodes = lambda: [{"Alive": True, "Resources": {"CPU": float(n)}} for n in cores]
    ray.put = lambda value: Ref(value=value)
    ray.get = lambda ref, timeout=None: ref.future.result(timeout) if ref.future is not None else ref.value
    ray.get_runtime_context = lambda: types.SimpleNamespace(gcs_address=address)
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray
