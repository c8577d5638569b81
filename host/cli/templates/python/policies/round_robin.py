"""round_robin: picks the ready endpoints in turn, from a random start."""

from itertools import cycle

import hotpick


class RoundRobin:
    def __init__(self, config, where):
        hotpick.read_config(config)
        self.turn = where.seed & 0xFFFF_FFFF
        self.turns = None

    def endpoints(self, added, removed, now):
        pass  # Round robin uses no data of endpoints.

    def ready(self, ready, now):
        # Goes on from the current position, not from the first subconn.
        first = self.turn % max(len(ready), 1)
        self.turns = cycle([hotpick.pick(id) for id in ready[first:] + ready[:first]] or [hotpick.queue()])

    def pick(self, info):
        self.turn += 1
        return next(self.turns)


hotpick.export(RoundRobin)
