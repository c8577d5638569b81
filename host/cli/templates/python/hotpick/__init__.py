"""The contract of policy.wit for policies in Python.

`hotpick build` (componentize-py) generates the module `wit_world` and its types. To generate them for an editor, put
hotpick's policy.wit and script.wit into wit/deps/, put a world that includes `hotpick:script/policy@0.1.0` into wit/,
and run `componentize-py -d wit -w policy bindings .`
"""

import json
from typing import Callable, List, NewType, NoReturn, Optional, Protocol, Tuple, Type, TypeVar

from componentize_py_types import Err
from wit_world.exports.lifecycle import Placement
from wit_world.imports import call, env, info, stats
from wit_world.imports.types import Endpoint, FailCode

__all__ = [
    "Endpoint", "FailCode", "PickInfo", "PickResult", "Placement", "Policy", "call", "declare_affinity", "declare_metadata",
    "drop", "env", "export", "fail", "pick", "queue", "read_config", "refuse", "stats",
]

# Number of a subconn, the connection to one endpoint. Small, and not reused while an instance may remember it.
SubConn = int

# The result of a pick, returned by the next four functions. A number, because passing an object is more expensive
# (script.wit of `hotpick build`).
PickResult = NewType("PickResult", float)

_QUEUE, _FAIL, _DROP = (kind * 2.0**32 for kind in (1, 2, 3))


def pick(id: SubConn) -> PickResult:
    """Sends the RPC on this subconn."""
    return PickResult(float(id))


def queue() -> PickResult:
    """Queues the RPC. It is picked for again after a change."""
    return PickResult(_QUEUE)


def fail(code: FailCode) -> PickResult:
    """Fails the RPC with this code. A wait-for-ready RPC is queued instead."""
    return PickResult(_FAIL + code.value)


def drop(code: FailCode) -> PickResult:
    """Ends the RPC with this code, even if it is wait-for-ready."""
    return PickResult(_DROP + code.value)


class PickInfo:
    """The RPC to pick for. Reading a property costs a call; most policies read none."""

    @property
    def call(self) -> int:
        """Number of the pick, unique within the instance."""
        return info.call()

    @property
    def method(self) -> int:
        return info.method()

    @property
    def affinity(self) -> Optional[int]:
        """XXH64 of the declared key's value. None if the RPC has none."""
        halves = info.affinity()
        return None if halves is None else halves[0] | halves[1] << 32

    @property
    def random(self) -> float:
        """Uniformly distributed, at least 0 and below 1."""
        return info.random()

    @property
    def now(self) -> int:
        """Time of this pick, in nanoseconds."""
        return info.now()

    @property
    def attempt(self) -> int:
        """Number of earlier attempts."""
        return info.attempt()

    @property
    def wait_for_ready(self) -> bool:
        return info.wait_for_ready()

    @property
    def requeued(self) -> bool:
        """Whether the RPC was queued before."""
        return info.requeued()


class Policy(Protocol):
    """A load-balancing policy. Calls never overlap."""

    def __init__(self, config: str, where: Placement) -> None:
        """Starts the policy. Called once, first. `config` is JSON, `{}` if there is none; refuse() refuses it."""

    def endpoints(self, added: List[Endpoint], removed: List[SubConn], now: int) -> None:
        """Called when the resolver's list changed. The first call adds all endpoints; a changed one is added again."""

    def ready(self, ready: List[SubConn], now: int) -> None:
        """Called when the set of ready subconns changed. The set is in the resolver's order, and may be empty."""

    def pick(self, info: PickInfo) -> PickResult:
        """Picks a subconn for one attempt of an RPC."""
        ...


def refuse(why: str) -> NoReturn:
    """Refuses the configuration for this reason. In __init__ only."""
    raise Err(why)


T = TypeVar("T")


def read_config(config: str, **defaults: T) -> "dict[str, T]":
    """Reads a configuration. It may have only these settings, each of the type of its default."""
    try:
        settings = json.loads(config)
    except ValueError as error:
        refuse(f"the configuration is not JSON: {error}")
    if not isinstance(settings, dict):
        refuse("the configuration is not a JSON object")
    for name, value in settings.items():
        if name not in defaults:
            refuse(f"{name}: there is no such setting")
        wanted = type(defaults[name])
        if wanted is float and type(value) is int:
            settings[name] = float(value)
        elif type(value) is not wanted:
            refuse(f"{name}: must be a {wanted.__name__}")
    return {**defaults, **settings}


def declare_metadata(key: str) -> int:
    """Declares a metadata key that picks will read with call.metadata(number). In __init__ only."""
    return call.declare_metadata(key)


def declare_affinity(key: int) -> None:
    """Makes info.affinity the hash of this declared key's value. In __init__ only."""
    call.declare_affinity(key)


def _logged(run: Callable) -> Callable:
    """Logs exceptions: each ends the instance, and the host starts another one."""

    def logging(*args):
        try:
            return run(*args)
        except Err:
            raise
        except Exception as error:
            _log(error)
            raise

    return logging


def _log(error: Exception) -> None:
    where = error.__traceback__
    while where.tb_next is not None:
        where = where.tb_next
    file, line = where.tb_frame.f_code.co_filename, where.tb_lineno
    env.log(env.Level.ERROR, f"{type(error).__name__}: {error} ({file}, line {line})")


def export(policy: Type[Policy]) -> Tuple[type, type, type]:
    """Exports a class as the policy of the component:

        Lifecycle, Endpoints, Picker = hotpick.export(MyPolicy)
    """
    instance: Optional[Policy] = None

    class Lifecycle:
        @_logged
        def init(self, config: str, where: Placement) -> None:
            nonlocal instance
            instance = policy(config, where)
            # Looked up once, rather than for each RPC.
            choose, info = instance.pick, PickInfo()

            def pick() -> PickResult:
                try:
                    answer = choose(info)
                    if type(answer) is not float:
                        raise TypeError("pick must return pick(id), queue(), fail(code) or drop(code)")
                    return answer
                except Exception as error:
                    _log(error)
                    raise

            Picker.pick = staticmethod(pick)

    class Endpoints:
        @_logged
        def changed(self, added: List[Endpoint], removed: List[SubConn], now: int) -> None:
            instance.endpoints(added, removed, now)

        @_logged
        def ready(self, ready: List[SubConn], now: int) -> None:
            instance.ready(ready, now)

    class Picker:
        pass

    return Lifecycle, Endpoints, Picker
