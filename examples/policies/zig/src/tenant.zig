//! tenant: sends each tenant to its pool of endpoints, pauses endpoints that fail, and picks the least loaded.
//!
//!     {"metadata": "tenant", "attribute": "pool", "routes": [{"prefix": "gold-", "pool": "fast"}],
//!      "failures": 3, "pauseSeconds": 10, "strict": false}
//!
//! An RPC whose metadata begins with a route's prefix goes to the ready endpoints whose attribute is the route's pool;
//! the first such route counts. Other RPCs go to all. If a pool is empty, its RPCs go to all as well, or fail if
//! `strict`. An endpoint that has failed `failures` RPCs in a row is paused for `pauseSeconds`. A retry goes to an
//! endpoint that the RPC has not tried. The next version of the policy takes over the pauses.

const std = @import("std");
const hotpick = @import("hotpick");

const SubConn = hotpick.SubConn;
const Nanos = hotpick.Nanos;
const allocator = hotpick.allocator;

const Route = struct { prefix: []const u8, pool: []const u8 };

const Config = struct {
    metadata: []const u8 = "tenant",
    attribute: []const u8 = "pool",
    routes: []const Route = &.{},
    failures: i64 = 3,
    pauseSeconds: f64 = 10,
    strict: bool = false,
};

const Endpoint = struct {
    pool: []const u8 = "",
    /// In a row.
    failures: i64 = 0,
    /// End of the pause. 0 if it is not paused.
    until: Nanos = 0,
};

/// The only timer.
const end_of_pause = 1;
/// Format of the state: a line for each paused endpoint, its number and the end of its pause.
const format = 1;

const Tenant = struct {
    config: Config = .{},
    key: u32 = 0,
    pauses: u32 = 0,
    paused: u32 = 0,
    known: std.AutoArrayHashMapUnmanaged(SubConn, Endpoint) = .empty,
    ids: []SubConn = &.{},
    /// The endpoints of `ids`.
    members: []*Endpoint = &.{},
    candidates: []SubConn = &.{},
    turn: usize = 0,
    state: []u8 = &.{},

    pub fn init(self: *Tenant, config: []const u8, where: hotpick.Placement) !?[]const u8 {
        self.* = .{ .turn = @truncate(where.seed) };
        if (hotpick.readConfig(Config, &self.config, config)) |why| return why;
        for (self.config.routes) |route| {
            if (route.prefix.len == 0) return "routes.prefix: must not be empty";
            if (route.pool.len == 0) return "routes.pool: must not be empty";
        }
        if (self.config.failures < 1) return "failures: must be at least 1";
        if (!(self.config.pauseSeconds > 0 and self.config.pauseSeconds <= 3600)) return "pauseSeconds: must be above 0 and at most 3600";
        return hotpick.call.declareMetadata(self.config.metadata).store(&self.key) orelse
            hotpick.metrics.counter("tenant_pauses", "Pauses of endpoints.").store(&self.pauses) orelse
            hotpick.metrics.gauge("tenant_paused", "Endpoints that are paused.").store(&self.paused);
    }

    pub fn endpoints(self: *Tenant, added: []const hotpick.Endpoint, removed: []const SubConn, now: Nanos) !void {
        for (removed) |id| {
            if (self.known.fetchSwapRemove(id)) |its| allocator.free(its.value.pool);
        }
        for (added) |endpoint| {
            const its = try self.known.getOrPutValue(allocator, endpoint.id, .{});
            allocator.free(its.value_ptr.pool);
            its.value_ptr.pool = try allocator.dupe(u8, endpoint.attribute(self.config.attribute) orelse "");
        }
        self.findMembers();
        self.checkPauses(now);
    }

    pub fn ready(self: *Tenant, ids: []const SubConn, _: Nanos) !void {
        allocator.free(self.ids);
        allocator.free(self.members);
        allocator.free(self.candidates);
        self.ids = try allocator.dupe(SubConn, ids);
        self.members = try allocator.alloc(*Endpoint, ids.len);
        self.candidates = try allocator.alloc(SubConn, ids.len);
        self.findMembers();
    }

    pub fn pick(self: *Tenant, info: hotpick.PickInfo) hotpick.PickResult {
        if (self.ids.len == 0) return .queue;
        var pool = self.poolOfRpc();
        if (pool != null and self.collect(pool, true, true).len == 0) {
            if (self.config.strict) {
                hotpick.call.explain("no endpoint is in the pool of this tenant");
                return .{ .fail = .unavailable };
            }
            pool = null;
        }
        var found: []SubConn = if (info.attempt > 0) self.collect(pool, false, false) else &.{};
        if (found.len == 0) found = self.collect(pool, false, true);
        if (found.len == 0) found = self.collect(pool, true, true);
        if (found.len == 0) return .queue;
        // Begins at another one in each pick, because the least loaded may be several.
        self.turn +%= 1;
        std.mem.rotate(SubConn, found, self.turn % found.len);
        return if (hotpick.stats.least(found, .in_flight)) |id| .{ .pick = id } else .queue;
    }

    pub fn outcomes(self: *Tenant, batch: []const hotpick.Outcome, now: Nanos) !void {
        var is_new = false;
        for (batch) |outcome| {
            const its = self.known.getPtr(outcome.subconn) orelse continue;
            if (outcome.client_ended or its.until != 0) continue; // sent before the pause
            its.failures = if (isFault(outcome.code)) its.failures + 1 else 0;
            if (its.failures < self.config.failures) continue;
            its.failures = 0;
            its.until = now + self.pauseTime();
            hotpick.metrics.add(self.pauses, 1);
            is_new = true;
        }
        if (is_new) self.checkPauses(now);
    }

    pub fn alarm(self: *Tenant, _: u32, now: Nanos) !void {
        self.checkPauses(now);
    }

    pub fn save(self: *Tenant) !hotpick.Saved {
        var state: std.ArrayList(u8) = .empty;
        for (self.known.keys(), self.known.values()) |id, its| {
            if (its.until != 0) try state.print(allocator, "{d} {d}\n", .{ id, its.until });
        }
        allocator.free(self.state);
        self.state = try state.toOwnedSlice(allocator);
        return .of(format, self.state);
    }

    pub fn restore(self: *Tenant, parts: []const hotpick.Saved) !?[]const u8 {
        for (parts) |part| {
            if (part.schema != format) return "the state is of another version";
            var lines = std.mem.splitScalar(u8, part.data.slice(), '\n');
            while (lines.next()) |line| {
                if (line.len == 0 and lines.peek() == null) break;
                const space = std.mem.indexOfScalar(u8, line, ' ') orelse return "the state cannot be read";
                const id = std.fmt.parseInt(SubConn, line[0..space], 10) catch return "the state cannot be read";
                const until = std.fmt.parseInt(Nanos, line[space + 1 ..], 10) catch return "the state cannot be read";
                const its = try self.known.getOrPutValue(allocator, id, .{});
                its.value_ptr.until = @max(its.value_ptr.until, until);
            }
        }
        return null;
    }

    /// Returns whether a status says that the server is at fault, rather than the request.
    fn isFault(code: hotpick.Status) bool {
        return switch (code) {
            .unknown, .deadline_exceeded, .resource_exhausted, .internal, .unavailable, .data_loss => true,
            else => false,
        };
    }

    fn pauseTime(self: *const Tenant) Nanos {
        return @intFromFloat(self.config.pauseSeconds * 1e9);
    }

    /// Finds the endpoints that are ready. Called when either changed. Every ready subconn is known.
    fn findMembers(self: *Tenant) void {
        for (self.ids, self.members) |id, *member| member.* = self.known.getPtr(id) orelse &gone;
    }

    /// Stands for a ready endpoint that has just been removed; `ready` is called next.
    var gone: Endpoint = .{};

    /// Ends the pauses that are over, and sets the timer for the next one.
    fn checkPauses(self: *Tenant, now: Nanos) void {
        var next: Nanos = std.math.maxInt(Nanos);
        var count: u32 = 0;
        for (self.known.values()) |*its| {
            if (its.until <= now) its.until = 0;
            its.until = @min(its.until, now + self.pauseTime()); // the version before paused for longer
            if (its.until == 0) continue;
            count += 1;
            next = @min(next, its.until);
        }
        hotpick.metrics.observe(self.paused, @floatFromInt(count));
        if (count > 0) {
            _ = hotpick.timers.schedule(end_of_pause, next - now);
        } else {
            hotpick.timers.cancel(end_of_pause);
        }
    }

    /// Returns the pool of the RPC. Null: all endpoints.
    fn poolOfRpc(self: *const Tenant) ?[]const u8 {
        const value = hotpick.call.metadata(self.key) orelse return null;
        defer hotpick.free(value);
        for (self.config.routes) |route| {
            if (std.mem.startsWith(u8, value, route.prefix)) return route.pool;
        }
        return null;
    }

    /// Collects the ready endpoints of a pool, or of all, that are suitable.
    fn collect(self: *Tenant, pool: ?[]const u8, with_paused: bool, with_tried: bool) []SubConn {
        var count: usize = 0;
        for (self.ids, self.members) |id, its| {
            if (pool) |name| if (!std.mem.eql(u8, its.pool, name)) continue;
            if ((!with_paused and its.until != 0) or (!with_tried and hotpick.call.tried(id))) continue;
            self.candidates[count] = id;
            count += 1;
        }
        return self.candidates[0..count];
    }
};

comptime {
    hotpick.policy(Tenant);
}
