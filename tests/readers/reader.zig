//! Explains each pick with all that it gets, and returns every kind of result.
//! The tenth attempt has an invalid code: there are nine.

const std = @import("std");
const hotpick = @import("hotpick");

const Reader = struct {
    first: hotpick.SubConn = 0,

    pub fn init(self: *Reader, _: []const u8, _: hotpick.Placement) !?[]const u8 {
        self.* = .{};
        return switch (hotpick.call.declareMetadata("user")) {
            .number => |user| hotpick.call.declareAffinity(user),
            .refused => |why| why,
        };
    }

    pub fn endpoints(_: *Reader, _: []const hotpick.Endpoint, _: []const hotpick.SubConn, _: hotpick.Nanos) !void {}

    pub fn ready(self: *Reader, members: []const hotpick.SubConn, _: hotpick.Nanos) !void {
        if (members.len > 0) self.first = members[0];
    }

    pub fn pick(self: *Reader, info: hotpick.PickInfo) hotpick.PickResult {
        if (info.requeued) return .queue;
        if (info.wait_for_ready) return .{ .pick = self.first };
        var number: [32]u8 = undefined;
        const affinity = if (info.affinity) |hash| std.fmt.bufPrint(&number, "{d}", .{hash}) catch unreachable else "none";
        var text: [256]u8 = undefined;
        const values = .{ info.call, info.method, affinity, info.random, info.now, hotpick.call.tried(self.first) };
        const in_flight = hotpick.stats.inFlight(self.first);
        const all = std.fmt.bufPrint(&text, "{d} {d} {s} {d} {d} {} {d}", values ++ .{in_flight}) catch unreachable;
        hotpick.call.explain(all);
        return if (info.attempt > 0) .{ .drop = @enumFromInt(info.attempt - 1) } else .{ .fail = .unavailable };
    }
};

comptime {
    hotpick.policy(Reader);
}
