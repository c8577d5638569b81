"""Explains each pick with all that it gets, and returns every kind of result.

The tenth attempt faults: there are nine codes."""

import hotpick


class Reader:
    def __init__(self, config, where):
        hotpick.declare_affinity(hotpick.declare_metadata("user"))

    def endpoints(self, added, removed, now):
        pass

    def ready(self, ready, now):
        self.first = next(iter(ready), 0)

    def pick(self, info):
        if info.requeued:
            return hotpick.queue()
        if info.wait_for_ready:
            return hotpick.pick(self.first)
        affinity = "none" if info.affinity is None else info.affinity
        values = [info.call, info.method, affinity, info.random, info.now]
        values += [str(hotpick.call.tried(self.first)).lower(), hotpick.stats.in_flight(self.first)]
        hotpick.call.explain(" ".join(map(str, values)))
        if info.attempt > 0:
            return hotpick.drop(list(hotpick.FailCode)[info.attempt - 1])
        return hotpick.fail(hotpick.FailCode.UNAVAILABLE)


hotpick.export(Reader)
