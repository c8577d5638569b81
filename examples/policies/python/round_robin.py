"""round_robin: one ready endpoint after the other, from a random start."""

import hotpick


class RoundRobin:
    def __init__(self, config, where):
        hotpick.read_config(config)
        self.members = []
        self.next = where.seed

    def endpoints(self, added, removed, now):
        pass  # Where they are makes no difference here.

    def ready(self, ready, now):
        self.members = [hotpick.pick(id) for id in ready]
        if ready:
            self.next %= len(ready)

    def pick(self, info):
        if not self.members:
            return hotpick.queue()
        picked = self.members[self.next]
        self.next += 1
        if self.next == len(self.members):
            self.next = 0
        return picked


Lifecycle, Endpoints, Picker = hotpick.export(RoundRobin)
