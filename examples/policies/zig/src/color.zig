//! color: sends each RPC to the endpoints of its colour, in turn.
//!
//! The configuration says which metadata key of RPCs is compared with which attribute of endpoints. It also says what
//! happens to an RPC without a colour, and to one whose colour no ready endpoint has:
//!
//!     {"metadata": "color", "attribute": "color", "missing": "any", "unmatched": "fail"}

const std = @import("std");
const hotpick = @import("hotpick");

const allocator = hotpick.allocator;

const Fallback = enum { any, fail };

const Config = struct {
    metadata: []const u8 = "color",
    attribute: []const u8 = "color",
    missing: Fallback = .any,
    unmatched: Fallback = .fail,
};

/// Ready subconns that take RPCs in turn.
const Group = struct {
    members: std.ArrayList(hotpick.SubConn) = .empty,
    next: usize = 0,

    fn pick(self: *Group) hotpick.PickResult {
        const picked = self.members.items[self.next];
        self.next += 1;
        if (self.next == self.members.items.len) self.next = 0;
        return .{ .pick = picked };
    }
};

const Color = struct {
    config: Config = .{},
    key: u32 = 0,
    colors: std.AutoHashMapUnmanaged(hotpick.SubConn, []const u8) = .empty,
    /// In the resolver's order.
    members: []const hotpick.SubConn = &.{},
    all: Group = .{},
    groups: std.StringHashMapUnmanaged(Group) = .empty,
    /// Picks so far, from a random start. Rebuilt groups go on from here, not from their first member.
    turn: usize = 0,

    pub fn init(self: *Color, config: []const u8, where: hotpick.Placement) !?[]const u8 {
        self.* = .{ .turn = @truncate(where.seed) };
        if (hotpick.readConfig(Config, &self.config, config)) |refused| return refused;
        switch (hotpick.call.declareMetadata(self.config.metadata)) {
            .number => |number| self.key = number,
            .refused => |why| return why,
        }
        return null;
    }

    pub fn endpoints(self: *Color, added: []const hotpick.Endpoint, removed: []const hotpick.SubConn, _: hotpick.Nanos) !void {
        for (removed) |id| self.forget(id);
        for (added) |*endpoint| {
            self.forget(endpoint.id);
            const color = endpoint.attribute(self.config.attribute) orelse continue;
            try self.colors.put(allocator, endpoint.id, try allocator.dupe(u8, color));
        }
        // A ready endpoint may have a new colour. `ready` is called after this only if the ready set changed.
        try self.regroup();
    }

    pub fn ready(self: *Color, members: []const hotpick.SubConn, _: hotpick.Nanos) !void {
        allocator.free(self.members);
        self.members = try allocator.dupe(hotpick.SubConn, members);
        try self.regroup();
    }

    pub fn pick(self: *Color, _: hotpick.PickInfo) hotpick.PickResult {
        if (self.members.len == 0) return .queue;
        self.turn +%= 1;
        const asked = hotpick.call.metadata(self.key);
        if (asked) |color| {
            defer hotpick.free(color);
            if (self.groups.getPtr(color)) |group| return group.pick();
        }
        const fallback = if (asked == null) self.config.missing else self.config.unmatched;
        if (fallback == .any) return self.all.pick();
        hotpick.call.explain(if (asked == null) "the RPC asks for no colour" else "no endpoint has the colour that the RPC asks for");
        return .{ .fail = .unavailable };
    }

    fn forget(self: *Color, id: hotpick.SubConn) void {
        if (self.colors.fetchRemove(id)) |known| allocator.free(known.value);
    }

    fn regroup(self: *Color) !void {
        var groups = self.groups.iterator();
        while (groups.next()) |entry| {
            allocator.free(entry.key_ptr.*);
            entry.value_ptr.members.deinit(allocator);
        }
        self.groups.clearRetainingCapacity();
        self.all.members.clearRetainingCapacity();
        self.all.next = 0;
        for (self.members) |id| {
            try self.all.members.append(allocator, id);
            const color = self.colors.get(id) orelse continue;
            const group = try self.groups.getOrPut(allocator, color);
            if (!group.found_existing) {
                group.key_ptr.* = try allocator.dupe(u8, color);
                group.value_ptr.* = .{};
            }
            try group.value_ptr.members.append(allocator, id);
        }
        if (self.members.len > 0) self.all.next = self.turn % self.members.len;
        groups = self.groups.iterator();
        while (groups.next()) |entry| entry.value_ptr.next = self.turn % entry.value_ptr.members.items.len;
    }
};

comptime {
    hotpick.policy(Color);
}
