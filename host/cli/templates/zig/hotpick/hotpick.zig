//! The contract of policy.wit as Zig types and functions, for policies in Zig.
//!
//! A policy is a struct with `init`, `endpoints`, `ready` and `pick`; `hotpick.policy(Struct)` exports it. A WIT record
//! has the memory layout of an `extern struct`, so nothing is copied. Arguments of these functions are valid until the
//! function returns.

const std = @import("std");

/// The allocator of a policy's memory, including the memory of what the host passes.
pub const allocator = std.heap.wasm_allocator;

/// Number of a subconn, the connection to one endpoint. Small, and not reused while an instance may remember it.
pub const SubConn = u32;
/// A time of the host's monotonic clock, in nanoseconds.
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

/// A UTF-8 string.
pub const Text = List(u8);

pub const Attribute = extern struct { key: Text, value: Text };

pub const Endpoint = extern struct {
    id: SubConn,
    /// At least one, the preferred one first.
    addresses: List(Text),
    /// At least 1.
    weight: u32,
    attributes: List(Attribute),

    /// Returns the value of an attribute, or null.
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
    /// XXH64 of the declared key's value. Null if the RPC has none.
    affinity: ?u64,
    /// Uniformly distributed.
    random: u64,
    now: Nanos,
    /// Number of earlier attempts.
    attempt: u32,
    wait_for_ready: bool,
    /// Whether the RPC was queued before.
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
    /// Send the RPC on this subconn.
    pick: SubConn,
    /// Queue the RPC, and pick for it again after a change.
    queue,
    /// Fail the RPC with this code. A wait-for-ready RPC is queued instead.
    fail: FailCode,
    /// End the RPC with this code, even if it is wait-for-ready.
    drop: FailCode,
};

/// Functions of the host.
pub const env = struct {
    pub extern "hotpick:policy/env@0.1.0" fn random() u64;
    pub extern "hotpick:policy/env@0.1.0" fn now() Nanos;
};

pub const stats = struct {
    const imports = struct {
        extern "hotpick:policy/stats@0.1.0" fn @"in-flight"(id: SubConn) u32;
    };
    /// Returns the number of RPCs in flight; 0 for an unknown subconn.
    pub fn inFlight(id: SubConn) u32 {
        return imports.@"in-flight"(id);
    }
};

/// The RPC being picked for.
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

    /// Declares a metadata key that picks will read. In `init` only.
    pub fn declareMetadata(key: []const u8) Key {
        var result: Declared = undefined;
        imports.@"declare-metadata"(key.ptr, key.len, &result);
        if (result.is_error) return .{ .refused = result.value.text.slice() };
        return .{ .number = result.value.number };
    }

    /// Makes `affinity` the hash of this declared key's value. In `init` only. Returns null, or why it is refused.
    pub fn declareAffinity(key: u32) ?[]const u8 {
        var result: Declared = undefined;
        imports.@"declare-affinity"(key, &result);
        return if (result.is_error) result.value.text.slice() else null;
    }

    /// Returns the first value of a declared key, or null. The caller frees it with `free`.
    pub fn metadata(key: u32) ?[]const u8 {
        var result: Found = undefined;
        imports.metadata(key, &result);
        return if (result.is_some) result.text.slice() else null;
    }

    /// Sets the text of the status if this pick fails or drops the RPC.
    pub fn explain(message: []const u8) void {
        imports.explain(message.ptr, message.len);
    }
};

/// Frees memory that the host allocated.
pub fn free(memory: anytype) void {
    allocator.free(memory);
}

/// Reads a configuration into a struct whose fields have defaults. The configuration may have only these fields.
/// Returns null, or a sentence that says what is wrong.
pub fn readConfig(comptime Config: type, into: *Config, config: []const u8) ?[]const u8 {
    into.* = std.json.parseFromSliceLeaky(Config, allocator, config, .{}) catch |problem| return switch (problem) {
        error.UnknownField => "the configuration has a setting that is not known",
        error.UnexpectedToken, error.InvalidEnumTag => "the configuration is not a JSON object, or a setting has the wrong type",
        else => "the configuration is not JSON",
    };
    return null;
}

/// Exports a policy: a struct with these functions. `init` returns null, or why the configuration is refused.
///
///     fn init(self: *Policy, config: []const u8, where: Placement) !?[]const u8
///     fn endpoints(self: *Policy, added: []const Endpoint, removed: []const SubConn, now: Nanos) !void
///     fn ready(self: *Policy, ready: []const SubConn, now: Nanos) !void
///     fn pick(self: *Policy, info: PickInfo) PickResult
///
/// An error, such as a lack of memory, ends the instance, and the host starts another one.
pub fn policy(comptime Policy: type) void {
    const exports = struct {
        var self: Policy = undefined;

        const Refused = extern struct { is_error: bool, text: Text };
        var refused: Refused = undefined;

        fn init(config_ptr: [*]u8, config_len: usize, target_ptr: [*]u8, target_len: usize, shard: u32, shards: u32, seed: u64, generation: u64) callconv(.c) *Refused {
            const target = target_ptr[0..target_len];
            const where = Placement{ .target = target, .shard = shard, .shards = shards, .seed = seed, .generation = generation };
            // The configuration is not freed, because settings read from it may point into it.
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

        /// Allocates memory for the lists and texts that the host passes.
        fn realloc(old: [*]u8, old_size: usize, alignment: usize, size: usize) callconv(.c) [*]u8 {
            _ = old;
            if (size == 0) return @ptrFromInt(alignment);
            // Nothing that the contract passes grows.
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
