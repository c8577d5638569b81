//! round_robin: picks the ready endpoints in turn, from a random start.

const hotpick = @import("hotpick");

const Config = struct {};

const RoundRobin = struct {
    members: []hotpick.SubConn = &.{},
    next: usize = 0,

    pub fn init(self: *RoundRobin, config: []const u8, where: hotpick.Placement) !?[]const u8 {
        self.* = .{ .next = @truncate(where.seed) };
        var settings: Config = .{};
        return hotpick.readConfig(Config, &settings, config);
    }

    pub fn endpoints(_: *RoundRobin, _: []const hotpick.Endpoint, _: []const hotpick.SubConn, _: hotpick.Nanos) !void {
        // Round robin uses no data of endpoints.
    }

    pub fn ready(self: *RoundRobin, members: []const hotpick.SubConn, _: hotpick.Nanos) !void {
        hotpick.allocator.free(self.members);
        self.members = try hotpick.allocator.dupe(hotpick.SubConn, members);
        if (members.len > 0) self.next %= members.len;
    }

    pub fn pick(self: *RoundRobin, _: hotpick.PickInfo) hotpick.PickResult {
        if (self.members.len == 0) return .queue;
        const picked = self.members[self.next];
        self.next += 1;
        if (self.next == self.members.len) self.next = 0;
        return .{ .pick = picked };
    }
};

comptime {
    hotpick.policy(RoundRobin);
}
