"""tenant: sends each tenant to its pool of endpoints, pauses endpoints that fail, and picks the least loaded.

    {"metadata": "tenant", "attribute": "pool", "routes": [{"prefix": "gold-", "pool": "fast"}],
     "failures": 3, "pauseSeconds": 10, "strict": false}

An RPC whose metadata begins with a route's prefix goes to the ready endpoints whose attribute is the route's pool; the
first such route counts. Other RPCs go to all. If a pool is empty, its RPCs go to all as well, or fail if `strict`. An
endpoint that has failed `failures` RPCs in a row is paused for `pauseSeconds`. A retry goes to an endpoint that the RPC
has not tried. The next version of the policy takes over the pauses.
"""

import hotpick
from hotpick import StatusCode

# The only timer.
END_OF_PAUSE = 1
# Format of the state: a line for each paused endpoint, its number and the end of its pause.
FORMAT = 1

# Statuses that say that the server is at fault, rather than the request.
FAULTS = {
    StatusCode.UNKNOWN, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED, StatusCode.INTERNAL,
    StatusCode.UNAVAILABLE, StatusCode.DATA_LOSS,
}


class Tenant:
    def __init__(self, config, where):
        settings = hotpick.read_config(
            config, metadata="tenant", attribute="pool", routes=hotpick.list_of({"prefix": str, "pool": str}),
            failures=3, pauseSeconds=10.0, strict=False,
        )
        self.routes = [(route["prefix"], route["pool"]) for route in settings["routes"]]
        for prefix, pool in self.routes:
            if not prefix:
                hotpick.refuse("routes.prefix: must not be empty")
            if not pool:
                hotpick.refuse("routes.pool: must not be empty")
        if settings["failures"] < 1:
            hotpick.refuse("failures: must be at least 1")
        if not 0 < settings["pauseSeconds"] <= 3600:
            hotpick.refuse("pauseSeconds: must be above 0 and at most 3600")
        self.attribute, self.strict, self.most = settings["attribute"], settings["strict"], settings["failures"]
        self.pause = int(settings["pauseSeconds"] * hotpick.SECOND)
        self.key = hotpick.declare_metadata(settings["metadata"])
        self.pauses = hotpick.metrics.counter("tenant_pauses", "Pauses of endpoints.")
        self.paused = hotpick.metrics.gauge("tenant_paused", "Endpoints that are paused.")
        self.pools = {}  # by endpoint
        self.failures = {}  # in a row, by endpoint that has any
        self.until = {}  # end of the pause, by endpoint that is paused
        self.members = []
        self.turn = where.seed & 0xFFFF_FFFF

    def endpoints(self, added, removed, now):
        for id in removed:
            for known in (self.pools, self.failures, self.until):
                known.pop(id, None)
        for endpoint in added:
            attributes = {attribute.key: attribute.value for attribute in endpoint.attributes}
            self.pools[endpoint.id] = attributes.get(self.attribute)
        self.check_pauses(now)

    def ready(self, ready, now):
        self.members = list(ready)

    def pick(self, info):
        if not self.members:
            return hotpick.queue()
        among = self.members
        pool = self.pool_of_rpc()
        if pool is not None:
            in_pool = [id for id in among if self.pools.get(id) == pool]
            if not in_pool and self.strict:
                hotpick.call.explain("no endpoint is in the pool of this tenant")
                return hotpick.fail(hotpick.FailCode.UNAVAILABLE)
            among = in_pool or among
        among = [id for id in among if id not in self.until] or among
        if info.attempt > 0:
            among = [id for id in among if not hotpick.call.tried(id)] or among
        # Begins at another one in each pick, because the least loaded may be several.
        self.turn += 1
        first = self.turn % len(among)
        least = hotpick.stats.least(among[first:] + among[:first], hotpick.Measure.IN_FLIGHT)
        return hotpick.queue() if least is None else hotpick.pick(least)

    def pool_of_rpc(self):
        """Returns the pool of the RPC. None: all endpoints."""
        value = hotpick.call.metadata(self.key)
        if value is None:
            return None
        return next((pool for prefix, pool in self.routes if value.startswith(prefix)), None)

    def outcomes(self, batch, now):
        is_new = False
        for outcome in batch:
            id = outcome.subconn
            if outcome.client_ended or id not in self.pools or id in self.until:
                continue  # no fault of the server, unknown, or sent before the pause
            if outcome.code not in FAULTS:
                self.failures.pop(id, None)
                continue
            self.failures[id] = self.failures.get(id, 0) + 1
            if self.failures[id] >= self.most:
                del self.failures[id]
                self.until[id] = now + self.pause
                hotpick.metrics.add(self.pauses, 1)
                is_new = True
        if is_new:
            self.check_pauses(now)

    def alarm(self, id, now):
        self.check_pauses(now)

    def check_pauses(self, now):
        """Ends the pauses that are over, and sets the timer for the next one."""
        latest = now + self.pause  # the version before may have paused for longer
        self.until = {id: min(until, latest) for id, until in self.until.items() if until > now}
        hotpick.metrics.observe(self.paused, len(self.until))
        if self.until:
            hotpick.timers.schedule(END_OF_PAUSE, min(self.until.values()) - now)
        else:
            hotpick.timers.cancel(END_OF_PAUSE)

    def save(self):
        return hotpick.Saved(FORMAT, "".join(f"{id} {until}\n" for id, until in self.until.items()).encode())

    def restore(self, parts):
        for part in parts:
            if part.schema != FORMAT:
                hotpick.refuse("the state is of another version")
            try:
                for line in part.data.decode().splitlines():
                    id, until = map(int, line.split(" "))
                    self.until[id] = max(self.until.get(id, 0), until)
            except ValueError:
                hotpick.refuse("the state cannot be read")


hotpick.export(Tenant, "outcomes", "alarms", "handover")
