"""What a policy in Python is to the hotpick host: the contract of policy.wit, with less ceremony.

The module `wit_world` and its types are made by `hotpick build` (componentize-py). To have them for an editor, put
hotpick's policy.wit and script.wit into wit/deps/, a world that includes `hotpick:script/policy@0.1.0` into wit/, and run
`componentize-py -d wit -w policy bindings .`
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

# A connection to an endpoint: a small number, never reused while the channel lives.
SubConn = int

# The answer to a pick: made by one of the next four functions. A number, which costs less to hand over than an object
# (script.wit of `hotpick build`).
PickResult = NewType("PickResult", float)

_QUEUE, _FAIL, _DROP = (kind * 2.0**32 for kind in (1, 2, 3))


def pick(id: SubConn) -> PickResult:
    """Use this subconn."""
    return PickResult(float(id))


def queue() -> PickResult:
    """Hold the RPC until something changes."""
    return PickResult(_QUEUE)


def fail(code: FailCode) -> PickResult:
    """Fail the RPC, unless it is wait-for-ready."""
    return PickResult(_FAIL + code.value)


def drop(code: FailCode) -> PickResult:
    """End the RPC now."""
    return PickResult(_DROP + code.value)


class PickInfo:
    """What is known of the RPC being picked for. Each costs a call to ask for; most policies need none."""

    @property
    def call(self) -> int:
        """Unique within the instance."""
        return info.call()

    @property
    def method(self) -> int:
        return info.method()

    @property
    def affinity(self) -> Optional[int]:
        """XXH64 of the declared key's value, if the RPC has one."""
        halves = info.affinity()
        return None if halves is None else halves[0] | halves[1] << 32

    @property
    def random(self) -> float:
        """Uniform, at least 0 and below 1."""
        return info.random()

    @property
    def now(self) -> int:
        """Nanoseconds."""
        return info.now()

    @property
    def attempt(self) -> int:
        """0 at first."""
        return info.attempt()

    @property
    def wait_for_ready(self) -> bool:
        return info.wait_for_ready()

    @property
    def requeued(self) -> bool:
        """It was queued, and is picked for again."""
        return info.requeued()


class Policy(Protocol):
    """What a policy has beside __init__. Calls never overlap."""

    def __init__(self, config: str, where: Placement) -> None:
        """Called once, first. `config` is JSON, `{}` if there is none; refuse() refuses it."""

    def endpoints(self, added: List[Endpoint], removed: List[SubConn], now: int) -> None:
        """The resolver's list has changed. The first call adds everything; one that has changed is added again."""

    def ready(self, ready: List[SubConn], now: int) -> None:
        """These are ready, in the resolver's order; there may be none."""

    def pick(self, info: PickInfo) -> PickResult:
        """Called for each attempt of each RPC."""
        ...


def refuse(why: str) -> NoReturn:
    """In __init__ only: refuses the configuration."""
    raise Err(why)


T = TypeVar("T")


def read_config(config: str, **defaults: T) -> "dict[str, T]":
    """Reads a configuration: an object with none but these settings, each of the type of its default."""
    try:
        settings = json.loads(config)
    except ValueError as error:
        refuse(f"the configuration is not JSON: {error}")
    if not isinstance(settings, dict):
        refuse("the configuration is no JSON object")
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
    """In __init__ only: names a metadata key that picks will read, by call.metadata(number)."""
    return call.declare_metadata(key)


def declare_affinity(key: int) -> None:
    """In __init__ only: picks are told the hash of this declared key's value, as info.affinity."""
    call.declare_affinity(key)


def _logged(run: Callable) -> Callable:
    """What is raised ends the instance, and the host makes another. Its log says why."""

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
    """Makes a class the policy of the component:

        Lifecycle, Endpoints, Picker = hotpick.export(MyPolicy)
    """
    instance: Optional[Policy] = None

    class Lifecycle:
        @_logged
        def init(self, config: str, where: Placement) -> None:
            nonlocal instance
            instance = policy(config, where)
            # Looked up once, not for each RPC.
            choose, info = instance.pick, PickInfo()

            def pick() -> PickResult:
                try:
                    answer = choose(info)
                    if type(answer) is not float:
                        raise TypeError("pick has to return pick(id), queue(), fail(code) or drop(code)")
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
