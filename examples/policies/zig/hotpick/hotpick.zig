//! What a policy in Zig is to the hotpick host: the contract of policy.wit, as types and functions of Zig.
//!
//! A policy is a struct with `init`, `endpoints`, `ready` and `pick`; `hotpick.policy(Struct)` exports it. A record of
//! WIT lies in memory as an `extern struct` does, so nothing is copied: what a function is given is its own until it
//! returns.

const std = @import("std");

/// All memory of a policy comes from here, and what the host hands over, too.
pub const allocator = std.heap.wasm_allocator;

/// A connection to an endpoint: a small number, never reused while the channel lives.
pub const SubConn = u32;
/// Of the host's monotonic clock.
pub const Nanos = u64;

fn List(comptime T: type) type {
    return extern struct {
        ptr: [*]T,
        len: usize,

        pub fn slice(self: @This()) []T {
            return self.ptr[0..self.len];
        }
    };
}

/// UTF-8.
pub const Text = List(u8);

pub const Attribute = extern struct { key: Text, value: Text };

pub const Endpoint = extern struct {
    id: SubConn,
    /// At least one, preferred first.
    addresses: List(Text),
    /// At least 1.
    weight: u32,
    attributes: List(Attribute),

    /// The value of an attribute.
    pub fn attribute(self: *const Endpoint, key: []const u8) ?[]const u8 {
        for (self.attributes.slice()) |its| {
            if (std.mem.eql(u8, its.key.slice(), key)) return its.value.slice();
        }
        return null;
    }
};

pub const Placement = struct {
    target: []const u8,
    shard: u32,
    shards: u32,
    /// Different in each instance.
    seed: u64,
    generation: u64,
};

pub const PickInfo = struct {
    /// Unique within the instance.
    call: u64,
    method: u32,
    /// XXH64 of the declared key's value, if the RPC has one.
    affinity: ?u64,
    /// Uniform.
    random: u64,
    now: Nanos,
    /// 0 at first.
    attempt: u32,
    wait_for_ready: bool,
    /// Picked for again after it was queued.
    requeued: bool,
};

pub const FailCode = enum(u8) {
    cancelled,
    unknown,
    deadline_exceeded,
    permission_denied,
    resource_exhausted,
    unimplemented,
    internal,
    unavailable,
    unauthenticated,
};

pub const PickResult = union(enum) {
    /// Use this subconn.
    pick: SubConn,
    /// Hold the RPC until something changes.
    queue,
    /// Fail the RPC, unless it is wait-for-ready.
    fail: FailCode,
    /// End the RPC now.
    drop: FailCode,
};

/// What the host offers that has no memory to pass.
pub const env = struct {
    pub extern "hotpick:policy/env@0.1.0" fn random() u64;
    pub extern "hotpick:policy/env@0.1.0" fn now() Nanos;
};

pub const stats = struct {
    const imports = struct {
        extern "hotpick:policy/stats@0.1.0" fn @"in-flight"(id: SubConn) u32;
    };
    /// RPCs under way; 0 of an unknown subconn.
    pub fn inFlight(id: SubConn) u32 {
        return imports.@"in-flight"(id);
    }
};

/// The RPC that is being picked for.
pub const call = struct {
    const Declared = extern struct {
        is_error: bool,
        value: extern union { number: u32, text: Text },
    };
    const Found = extern struct { is_some: bool, text: Text };
    const imports = struct {
        extern "hotpick:policy/call@0.1.0" fn @"declare-metadata"(ptr: [*]const u8, len: usize, result: *Declared) void;
        extern "hotpick:policy/call@0.1.0" fn @"declare-affinity"(key: u32, result: *Declared) void;
        extern "hotpick:policy/call@0.1.0" fn metadata(key: u32, result: *Found) void;
        extern "hotpick:policy/call@0.1.0" fn explain(ptr: [*]const u8, len: usize) void;
    };
    pub extern "hotpick:policy/call@0.1.0" fn tried(id: SubConn) bool;

    pub const Key = union(enum) { number: u32, refused: []const u8 };

    /// In `init` only: names a metadata key that picks will read.
    pub fn declareMetadata(key: []const u8) Key {
        var result: Declared = undefined;
        imports.@"declare-metadata"(key.ptr, key.len, &result);
        if (result.is_error) return .{ .refused = result.value.text.slice() };
        return .{ .number = result.value.number };
    }

    /// In `init` only: picks are told the hash of this declared key's value, as `affinity`. Gives null, or why not.
    pub fn declareAffinity(key: u32) ?[]const u8 {
        var result: Declared = undefined;
        imports.@"declare-affinity"(key, &result);
        return if (result.is_error) result.value.text.slice() else null;
    }

    /// The first value of a declared key. The caller's to give back by `free`.
    pub fn metadata(key: u32) ?[]const u8 {
        var result: Found = undefined;
        imports.metadata(key, &result);
        return if (result.is_some) result.text.slice() else null;
    }

    /// The text of the status of an RPC that is about to be failed or dropped.
    pub fn explain(message: []const u8) void {
        imports.explain(message.ptr, message.len);
    }
};

/// Gives back what the host has given.
pub fn free(memory: anytype) void {
    allocator.free(memory);
}

/// Reads a configuration into a struct whose fields have defaults, and to which it may add none. Null if that went
/// well; otherwise a sentence.
pub fn readConfig(comptime Config: type, into: *Config, config: []const u8) ?[]const u8 {
    into.* = std.json.parseFromSliceLeaky(Config, allocator, config, .{}) catch |problem| return switch (problem) {
        error.UnknownField => "the configuration has a setting that is not known",
        error.UnexpectedToken, error.InvalidEnumTag => "the configuration is no object, or a setting is not of its kind",
        else => "the configuration is not JSON",
    };
    return null;
}

/// Exports a policy: a struct with
///
///     fn init(self: *Policy, config: []const u8, where: Placement) !?[]const u8   // why it is refused
///     fn endpoints(self: *Policy, added: []const Endpoint, removed: []const SubConn, now: Nanos) !void
///     fn ready(self: *Policy, ready: []const SubConn, now: Nanos) !void
///     fn pick(self: *Policy, info: PickInfo) PickResult
///
/// An error (there is no memory) ends the instance, and the host makes another.
pub fn policy(comptime Policy: type) void {
    const exports = struct {
        var self: Policy = undefined;

        const Refused = extern struct { is_error: bool, text: Text };
        var refused: Refused = undefined;

        fn init(config_ptr: [*]u8, config_len: usize, target_ptr: [*]u8, target_len: usize, shard: u32, shards: u32, seed: u64, generation: u64) callconv(.c) *Refused {
            const target = target_ptr[0..target_len];
            const where = Placement{ .target = target, .shard = shard, .shards = shards, .seed = seed, .generation = generation };
            // The configuration stays: what is read from it may be a part of it.
            const why = self.init(config_ptr[0..config_len], where) catch @trap();
            free(target);
            refused.is_error = why != null;
            if (why) |text| refused.text = .{ .ptr = @constCast(text.ptr), .len = text.len };
            return &refused;
        }

        fn changed(added_ptr: [*]Endpoint, added_len: usize, removed_ptr: [*]SubConn, removed_len: usize, now: Nanos) callconv(.c) void {
            const added = added_ptr[0..added_len];
            const removed = removed_ptr[0..removed_len];
            self.endpoints(added, removed, now) catch @trap();
            for (added) |endpoint| {
                for (endpoint.addresses.slice()) |address| free(address.slice());
                free(endpoint.addresses.slice());
                for (endpoint.attributes.slice()) |attribute| {
                    free(attribute.key.slice());
                    free(attribute.value.slice());
                }
                free(endpoint.attributes.slice());
            }
            free(added);
            free(removed);
        }

        fn ready(ptr: [*]SubConn, len: usize, now: Nanos) callconv(.c) void {
            const all = ptr[0..len];
            self.ready(all, now) catch @trap();
            free(all);
        }

        const Picked = extern struct { what: u8, value: extern union { id: SubConn, code: u8 } };
        var picked: Picked = undefined;

        fn pick(id: u64, method: u32, has_affinity: bool, affinity: u64, random: u64, now: Nanos, attempt: u32, wait_for_ready: bool, requeued: bool) callconv(.c) *Picked {
            const answer = self.pick(.{
                .call = id,
                .method = method,
                .affinity = if (has_affinity) affinity else null,
                .random = random,
                .now = now,
                .attempt = attempt,
                .wait_for_ready = wait_for_ready,
                .requeued = requeued,
            });
            switch (answer) {
                .pick => |subconn| picked = .{ .what = 0, .value = .{ .id = subconn } },
                .queue => picked.what = 1,
                .fail => |code| picked = .{ .what = 2, .value = .{ .code = @intFromEnum(code) } },
                .drop => |code| picked = .{ .what = 3, .value = .{ .code = @intFromEnum(code) } },
            }
            return &picked;
        }

        /// By which the host hands over lists and texts.
        fn realloc(old: [*]u8, old_size: usize, alignment: usize, size: usize) callconv(.c) [*]u8 {
            _ = old;
            if (size == 0) return @ptrFromInt(alignment);
            // Nothing that the contract hands over grows.
            if (old_size != 0) @trap();
            return allocator.rawAlloc(size, .fromByteUnits(alignment), @returnAddress()) orelse @trap();
        }
    };
    @export(&exports.init, .{ .name = "hotpick:policy/lifecycle@0.1.0#init" });
    @export(&exports.changed, .{ .name = "hotpick:policy/endpoints@0.1.0#changed" });
    @export(&exports.ready, .{ .name = "hotpick:policy/endpoints@0.1.0#ready" });
    @export(&exports.pick, .{ .name = "hotpick:policy/picker@0.1.0#pick" });
    @export(&exports.realloc, .{ .name = "cabi_realloc" });
}
