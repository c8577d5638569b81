"""The contract of policy.wit for policies in Python.

`hotpick build` (componentize-py) generates the module `wit_world` and its types. To generate them for an editor, put
hotpick's policy.wit and script.wit into wit/deps/, put a world that includes `hotpick:script/policy@0.1.0` into wit/,
and run `componentize-py -d wit -w policy bindings .`
"""

import importlib
import json
import sys
from typing import Any, Callable, List, NamedTuple, NewType, NoReturn, Optional, Protocol, Sequence, Type, Union

from componentize_py_types import Err
from wit_world.exports.lifecycle import Placement
from wit_world.imports import call as _call
from wit_world.imports import connections as _connections
from wit_world.imports import env as _env
from wit_world.imports import info
from wit_world.imports import metrics as _metrics
from wit_world.imports import stats as _stats
from wit_world.imports import timers as _timers
from wit_world.imports.env import Level
from wit_world.imports.stats import Measure
from wit_world.imports.types import ConnectivityState, Endpoint, FailCode, StatusCode

__all__ = [
    "ConnectivityState", "Endpoint", "FailCode", "Level", "Measure", "PickInfo", "PickResult", "Placement", "Policy", "Saved",
    "StatusCode", "by_affinity", "call", "connections", "declare_affinity", "declare_metadata", "drop", "env", "export", "fail",
    "list_of", "metrics", "no_plan", "pick", "queue", "read_config", "refuse", "sequence", "stats", "timers",
]

SECOND = 1_000_000_000  # nanoseconds

# Number of a subconn, the connection to one endpoint. Counted from 0, and not reused while an instance may remember it.
SubConn = int

# The result of a pick, returned by the next four functions. A number, because passing an object is more expensive
# (script.wit of `hotpick build`).
PickResult = NewType("PickResult", float)

_QUEUE, _FAIL, _DROP = (kind * 2.0**32 for kind in (1, 2, 3))


def pick(id: SubConn) -> PickResult:
    """Sends the RPC on this subconn."""
    return PickResult(float(_small("id", id)))


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


# Arguments are checked here: one of the wrong type would end the instance without a word, and no `except` would see it.


def _small(name: str, value: Any) -> int:
    if type(value) is int and 0 <= value < 2**32:
        return value
    raise TypeError(f"{name} must be a whole number from 0 to 2^32 - 1, not {value!r}")


def _large(name: str, value: Any) -> int:
    if type(value) is int and 0 <= value < 2**64:
        return value
    raise TypeError(f"{name} must be a whole number from 0 to 2^64 - 1, not {value!r}")


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        # Half of a surrogate pair has no UTF-8.
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    raise TypeError(f"{name} must be a str, not {value!r}")


def _real(name: str, value: Any) -> float:
    if type(value) in (int, float):
        return float(value)
    raise TypeError(f"{name} must be a number, not {value!r}")


def _one(name: str, value: Any, kind: type) -> Any:
    if isinstance(value, kind):
        return value
    raise TypeError(f"{name} must be one of {', '.join(f'{kind.__name__}.{one.name}' for one in kind)}, not {value!r}")


class env:
    """Clock, random numbers, log, and names of methods."""

    @staticmethod
    def now() -> int:
        """Returns the current time, in nanoseconds. In a pick, `info.now` is cheaper."""
        return _env.now()

    @staticmethod
    def random() -> int:
        """Returns a uniformly distributed number of 64 bits. In a pick, `info.random` is cheaper."""
        return _env.random()

    @staticmethod
    def log(level: Level, line: str) -> None:
        """Writes a line to the host's log. `level` is Level.TRACE, DEBUG, INFO, WARN or ERROR."""
        _env.log(_one("level", level, Level), _text("line", line))

    @staticmethod
    def level_enabled(level: Level) -> bool:
        """Returns whether the host uses messages of this level."""
        return _env.level_enabled(_one("level", level, Level))

    @staticmethod
    def method_name(method: int) -> str:
        """Returns the name of a method. Empty for 4,096, which stands for many methods."""
        return _env.method_name(_small("method", method))


class stats:
    """The host's statistics of each subconn."""

    @staticmethod
    def in_flight(id: SubConn) -> int:
        """Returns the number of RPCs in flight; 0 for an unknown subconn."""
        return _stats.in_flight(_small("id", id))

    @staticmethod
    def least(among: Sequence[SubConn], by: Measure) -> Optional[SubConn]:
        """Returns the subconn with the lowest Measure.IN_FLIGHT, LATENCY_EWMA or FAILURE_RATE_EWMA, the earlier one if
        equal. None if no known one is left."""
        # Not passed to the host if it is empty: componentize-py allocates memory for it, which it does not free.
        if not among:
            return None
        return _stats.least([_small("among", id) for id in among], _one("by", by, Measure))

    @staticmethod
    def read(id: SubConn) -> Optional[_stats.Summary]:
        """Returns in_flight, max_streams, picked, succeeded, failed, latency_ewma and ready_since. None if unknown."""
        return _stats.read(_small("id", id))

    @staticmethod
    def responses(id: SubConn) -> Optional[_stats.ResponseCounts]:
        """Returns the counters of a subconn's responses: in_flight, max_streams, silence, begun, waited, abandoned,
        abandoned_after, ended and faulty; see `response-counts` in policy.wit. None if unknown."""
        return _stats.responses(_small("id", id))


class call:
    """The RPC being picked for."""

    @staticmethod
    def declare_metadata(key: str) -> int:
        """Declares a metadata key that picks will read. Returns its number. In __init__ only."""
        return _call.declare_metadata(_text("key", key))

    @staticmethod
    def declare_affinity(key: int) -> None:
        """Makes info.affinity the hash of this declared key's value. In __init__ only."""
        _call.declare_affinity(_small("key", key))

    @staticmethod
    def declare_affinity_number(key: int) -> None:
        """Makes info.affinity the number of this declared key's value. In __init__ only."""
        _call.declare_affinity_number(_small("key", key))

    @staticmethod
    def metadata(key: int) -> Optional[str]:
        """Returns the first value of a declared key. None if the RPC has none."""
        return _call.metadata(_small("key", key))

    @staticmethod
    def metadata_all(key: int) -> List[bytes]:
        """Returns all values of a declared key. componentize-py does not free all of them: use `metadata` if it is enough."""
        return _call.metadata_all(_small("key", key))

    @staticmethod
    def metadata_hash(key: int) -> Optional[int]:
        """Returns the XXH64 of a declared key's value. Equal hashes do not mean equal values."""
        return _call.metadata_hash(_small("key", key))

    @staticmethod
    def metadata_number(key: int) -> Optional[int]:
        """Returns a number that identifies the first value of a declared key. None if the RPC has none."""
        return _call.metadata_number(_small("key", key))

    @staticmethod
    def set_metadata(key: str, value: Union[str, bytes]) -> None:
        """Sets metadata of the request, if this pick sends it. componentize-py does not free the value: the host replaces the
        instance, with its state, before that is too much."""
        value = value.encode("utf-8", "replace") if isinstance(value, str) else value
        if not isinstance(value, bytes):
            raise TypeError(f"value must be a str or bytes, not {value!r}")
        _call.set_metadata(_text("key", key), value)

    @staticmethod
    def tried(id: SubConn) -> bool:
        """Returns whether an earlier attempt of the same RPC used this subconn."""
        return _call.tried(_small("id", id))

    @staticmethod
    def time_left() -> Optional[int]:
        """Returns the time left until the RPC's deadline, in nanoseconds. None if it has none."""
        return _call.time_left()

    @staticmethod
    def explain(message: str) -> None:
        """Sets the text of the status if this pick fails or drops the RPC."""
        _call.explain(_text("message", message))


class metrics:
    """Instruments of the policy, `hotpick_policy_NAME`. Made in __init__ only; the functions return their number."""

    @staticmethod
    def counter(name: str, help: str) -> int:
        return _metrics.counter(_text("name", name), _text("help", help))

    @staticmethod
    def gauge(name: str, help: str) -> int:
        return _metrics.gauge(_text("name", name), _text("help", help))

    @staticmethod
    def histogram(name: str, help: str, buckets: Sequence[float]) -> int:
        """`buckets` are the upper bounds: finite, not negative and ascending."""
        bounds = [_real("buckets", bound) for bound in buckets]
        return _metrics.histogram(_text("name", name), _text("help", help), bounds)

    @staticmethod
    def add(id: int, delta: int) -> None:
        """Adds to a counter."""
        _metrics.add(_small("id", id), _large("delta", delta))

    @staticmethod
    def observe(id: int, value: float) -> None:
        """Sets a gauge, or records a value in a histogram."""
        _metrics.observe(_small("id", id), _real("value", value))


class timers:
    """One-shot timers, delivered to `alarm`: export the part "alarms"."""

    @staticmethod
    def schedule(id: int, delay: int) -> None:
        """Sets the timer `id`, a number that the policy chooses, to a delay in nanoseconds. Replaces the timer if it is set."""
        _timers.schedule(_small("id", id), _large("delay", delay))

    @staticmethod
    def cancel(id: int) -> None:
        _timers.cancel(_small("id", id))


class connections:
    """Control of connections. By default the host connects every subconn and keeps it connected."""

    @staticmethod
    def declare_lazy() -> None:
        """Makes the host connect a subconn only on request. In __init__ only."""
        _connections.declare_lazy()

    @staticmethod
    def connect(id: SubConn) -> None:
        """Requests that an idle subconn connect."""
        _connections.connect(_small("id", id))

    @staticmethod
    def disconnect(id: SubConn) -> None:
        """Requests that a connecting or ready subconn become idle."""
        _connections.disconnect(_small("id", id))

    @staticmethod
    def resolve_now() -> None:
        """Requests a new resolution of the channel's target."""
        _connections.resolve_now()


class Saved(NamedTuple):
    """Saved state of an instance."""

    schema: int
    """The policy's own number for the format of `data`."""
    data: bytes


class _Plan(NamedTuple):
    case: str
    picks: Sequence[SubConn]


def no_plan() -> _Plan:
    """No plan: the host calls pick."""
    return _Plan("None_", ())


def sequence(picks: Sequence[SubConn]) -> _Plan:
    """The next picks, in order."""
    return _Plan("Sequence" if picks else "None_", picks)


def by_affinity(picks: Sequence[SubConn]) -> _Plan:
    """A table: the host takes entry `affinity mod length`."""
    return _Plan("ByAffinity" if picks else "None_", picks)


class Policy(Protocol):
    """A load-balancing policy. Calls never overlap. The functions after `pick` belong to the optional parts that export()
    names."""

    def __init__(self, config: str, where: Placement) -> None:
        """Starts the policy. Called once, first. `config` is JSON, `{}` if there is none; refuse() refuses it. What is
        declared (metadata, instruments, lazy connections) is declared only here."""

    def endpoints(self, added: List[Endpoint], removed: List[SubConn], now: int) -> None:
        """Called when the resolver's list changed. The first call adds all endpoints; a changed one is added again."""

    def ready(self, ready: List[SubConn], now: int) -> None:
        """Called when the set of ready subconns changed. The set is in the resolver's order, and may be empty."""

    def pick(self, info: PickInfo) -> PickResult:
        """Picks a subconn for one attempt of an RPC."""
        ...

    def outcomes(self, batch: List[Any], now: int) -> None:
        """Part "outcomes": reports RPCs that have ended, with call, subconn, method, code (a StatusCode), not_sent,
        client_ended, latency and load (application, cpu, memory, rps, eps; or None)."""

    def plan(self, budget: int, random: int, now: int) -> _Plan:
        """Part "plans": picks ahead, at most `budget` RPCs. Returns no_plan(), sequence(ids) or by_affinity(ids)."""
        ...

    def connectivity(self, id: SubConn, state: ConnectivityState, message: str, now: int) -> None:
        """Part "connectivity": called when the state of a subconn changed. `message` is the reason for a transient
        failure."""

    def alarm(self, id: int, now: int) -> None:
        """Part "alarms": called when a timer set by timers.schedule(id, delay) has expired."""

    def save(self) -> Saved:
        """Part "handover": returns the state."""
        ...

    def restore(self, parts: List[Saved]) -> None:
        """Part "handover": restores the states that instances saved, before the first `endpoints`. After refuse(), an
        instance without the state is started."""

    @staticmethod
    def describe() -> "tuple[str, str]":
        """Part "about": what the policy does in a few words, and a JSON Schema of the configuration or ""."""
        ...


def refuse(why: str) -> NoReturn:
    """Refuses the configuration, or a saved state, for this reason. In __init__ and restore only."""
    raise Err(_text("why", why))


class list_of(NamedTuple):
    """A setting that is a list, empty by default. Its items are of this type."""

    item: Any


_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}


def read_config(config: str, **settings: Any) -> "dict[str, Any]":
    """Reads a configuration. It may have only these settings, each of the type of its default:

        read_config(config, failures=3, routes=list_of({"prefix": str, "pool": str}))

    A setting whose default is a type must be there. A dict is an object with settings of its own.
    """
    # Deeper ones would end the instance. Brackets in strings count, too.
    depth = deepest = 0
    for c in config:
        depth += (c in "[{") - (c in "]}")
        deepest = max(deepest, depth)
    if deepest > 64:
        refuse("the configuration is not JSON of 64 levels at most")
    try:
        value = json.loads(config, parse_constant=_no_constant)
    except ValueError as error:
        refuse(f"the configuration is not JSON: {error}")
    if not isinstance(value, dict):
        refuse("the configuration is not a JSON object")
    return _object("", value, settings)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(place: str, value: Any, settings: "dict[str, Any]") -> "dict[str, Any]":
    for name in value:
        if name not in settings:
            refuse(f"{place}{name}: there is no such setting")
    return {name: _setting(place + name, value.get(name, _ABSENT), default) for name, default in settings.items()}


_ABSENT = object()


def _setting(place: str, value: Any, default: Any) -> Any:
    if value is _ABSENT:
        if isinstance(default, type):
            refuse(f"{place}: is missing")
        if isinstance(default, dict):
            return _object(place + ".", {}, default)
        return [] if isinstance(default, list_of) else default
    wanted = list if isinstance(default, list_of) else default if isinstance(default, type) else type(default)
    if wanted is float and type(value) is int and abs(value) < 2**1023:
        value = float(value)
    elif wanted is int and type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not wanted:
        refuse(f"{place}: must be {_NAMES.get(wanted, wanted.__name__)}")
    if wanted is float and not abs(value) < float("inf"):
        refuse(f"{place}: must be a number")
    if wanted is int and abs(value) >= 2**53:
        refuse(f"{place}: must be a whole number")
    if wanted is str and value != _text(place, value):
        refuse(f"{place}: must be a string of whole characters")
    if isinstance(default, dict):
        return _object(place + ".", value, default)
    if isinstance(default, list_of):
        return [_setting(place, item, type(default.item) if _is_plain(default.item) else default.item) for item in value]
    return value


def _is_plain(item: Any) -> bool:
    return not isinstance(item, (type, dict, list_of))


declare_metadata, declare_affinity = call.declare_metadata, call.declare_affinity


def _logged(run: Callable) -> Callable:
    """Logs exceptions: each ends the instance, and the host starts another one."""

    def logging(*args):
        try:
            return run(*args)
        except Err as refusal:
            # An error of the contract where there is one. Elsewhere it comes from the host, and is an exception as others.
            if run.__name__ not in ("init", "restore"):
                _log(refusal)
            raise
        except Exception as error:
            _log(error)
            raise

    return logging


def _log(error: Exception) -> None:
    where = error.__traceback__
    # The innermost line of the policy, not of this file.
    place = "?"
    while where is not None:
        file, line = where.tb_frame.f_code.co_filename, where.tb_lineno
        if file.startswith("/0/") and file != __file__:
            place = f"{file.removeprefix('/0/')}, line {line}"
        where = where.tb_next
    said = error.value if isinstance(error, Err) else f"{type(error).__name__}: {error}"
    _env.log(Level.ERROR, _text("error", f"{said} ({place})"))


# Functions of the optional parts: of the class of the policy.
_PARTS = {
    "outcomes": ("outcomes",), "plans": ("plan",), "connectivity": ("connectivity",), "alarms": ("alarm",),
    "handover": ("save", "restore"), "about": ("describe",),
}


def export(policy: Type[Policy], *parts: str) -> None:
    """Exports a class as the policy of the component, with these optional parts. At the end of the policy's module, as:

        hotpick.export(MyPolicy, "outcomes", "handover")
    """
    module = sys.modules[policy.__module__]
    for part in parts:
        if part not in _PARTS:
            raise ValueError(f"{part!r} is not an optional part of the contract: choose from {', '.join(_PARTS)}")
    for name in (name for part in ("", *parts) for name in _PARTS.get(part, ("endpoints", "ready", "pick"))):
        if not callable(getattr(policy, name, None)) or getattr(policy, name) is getattr(Policy, name):
            raise TypeError(f"class {policy.__name__} has no function {name!r}")
    instance: Any = None

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

    class Outcomes:
        @_logged
        def done(self, batch: List[Any], now: int) -> None:
            instance.outcomes(batch, now)

    class Plans:
        @_logged
        def make(self, budget: int, random: int, now: int) -> Any:
            plan = instance.plan(budget, random, now)
            if not isinstance(plan, _Plan):
                raise TypeError("plan must return no_plan(), sequence(ids) or by_affinity(ids)")
            made = getattr(_exported("plans"), f"Plan_{plan.case}")
            return made([_small("picks", id) for id in plan.picks]) if plan.picks else made()

    class Connectivity:
        @_logged
        def changed(self, id: SubConn, state: ConnectivityState, message: str, now: int) -> None:
            instance.connectivity(id, state, message, now)

    class Alarms:
        @_logged
        def fired(self, id: int, now: int) -> None:
            instance.alarm(id, now)

    class Handover:
        @_logged
        def save(self) -> Any:
            schema, data = instance.save()
            if not isinstance(data, bytes):
                raise TypeError(f"save must return Saved(schema, bytes), not {data!r}")
            return _exported("handover").Saved(_small("schema", schema), data)

        @_logged
        def restore(self, parts: List[Any]) -> None:
            instance.restore([Saved(part.schema, part.data) for part in parts])

    class About:
        @_logged
        def describe(self) -> Any:
            return _exported("about").Description(*policy.describe())

    optional = {
        "outcomes": Outcomes, "plans": Plans, "connectivity": Connectivity, "alarms": Alarms, "handover": Handover, "about": About,
    }
    for exported in (Lifecycle, Endpoints, Picker, *(optional[part] for part in parts)):
        setattr(module, exported.__name__, exported)
    for part in parts:
        _exported(part)


def _exported(part: str) -> Any:
    """Returns the types of an optional part."""
    try:
        return importlib.import_module(f"wit_world.exports.{part}")
    except ImportError:
        raise ImportError(
            f"the component is built without {part!r}: `hotpick build` finds the parts in `hotpick.export(MyPolicy, {part!r})`"
        ) from None
