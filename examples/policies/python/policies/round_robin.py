"""round_robin: one ready endpoint after the other, from a random start."""

from itertools import cycle

import hotpick


class RoundRobin:
    def __init__(self, config, where):
        hotpick.read_config(config)
        self.turn = where.seed & 0xFFFF_FFFF
        self.turns = None

    def endpoints(self, added, removed, now):
        pass  # Where they are makes no difference here.

    def ready(self, ready, now):
        # Where it was, rather than with the first again.
        first = self.turn % max(len(ready), 1)
        self.turns = cycle([hotpick.pick(id) for id in ready[first:] + ready[:first]] or [hotpick.queue()])

    def pick(self, info):
        self.turn += 1
        return next(self.turns)


Lifecycle, Endpoints, Picker = hotpick.export(RoundRobin)
