//! The contract of policy.wit as Zig types and functions, for policies in Zig.
//!
//! A policy is a struct with `init`, `endpoints`, `ready` and `pick`; `hotpick.policy(Struct)` exports it, with the
//! optional parts whose functions the struct has. A WIT record has the memory layout of an `extern struct`, so nothing
//! is copied. Arguments of these functions are valid until the function returns.

const std = @import("std");

/// The allocator of a policy's memory, including the memory of what the host passes.
pub const allocator = std.heap.wasm_allocator;

/// Number of a subconn, the connection to one endpoint. Counted from 0, and not reused while an instance may remember it.
pub const SubConn = u32;
/// A time of the host's monotonic clock, in nanoseconds.
pub const Nanos = u64;

/// Returns the pointer of a list for the host. That of an empty slice may be outside of the memory.
fn at(comptime T: type, items: []const T) [*]const T {
    return if (items.len > 0) items.ptr else @ptrFromInt(@alignOf(T));
}

fn List(comptime T: type) type {
    return extern struct {
        ptr: [*]T,
        len: usize,

        pub fn slice(self: @This()) []T {
            return self.ptr[0..self.len];
        }
        fn of(items: []const T) @This() {
            return .{ .ptr = @constCast(at(T, items)), .len = items.len };
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

/// The canonical gRPC status codes.
pub const Status = enum(u8) {
    ok,
    cancelled,
    unknown,
    invalid_argument,
    deadline_exceeded,
    not_found,
    already_exists,
    permission_denied,
    resource_exhausted,
    failed_precondition,
    aborted,
    out_of_range,
    unimplemented,
    internal,
    unavailable,
    data_loss,
    unauthenticated,
};

/// A server's load report (ORCA). A field that the server left out is 0.
pub const Load = extern struct {
    application: f64,
    cpu: f64,
    memory: f64,
    /// Requests per second.
    rps: f64,
    /// Errors per second.
    eps: f64,
};

/// How an RPC ended.
pub const Outcome = extern struct {
    /// `call` of the pick.
    call: u64,
    subconn: SubConn,
    method: u32,
    code: Status,
    /// Whether the RPC was not served.
    not_sent: bool,
    /// Whether the client gave up, which says little about the server.
    client_ended: bool,
    /// From the pick to the end.
    latency: Nanos,
    has_load: bool,
    its_load: Load,

    /// Returns the load report, or null.
    pub fn load(self: *const Outcome) ?Load {
        return if (self.has_load) self.its_load else null;
    }
};

/// Picks ahead. The memory stays valid until the next call of the policy.
pub const Plan = union(enum) {
    /// The host calls `pick`.
    none,
    /// The next picks, in order.
    sequence: []const SubConn,
    /// A table: the host takes entry `affinity mod len`.
    by_affinity: []const SubConn,
};

pub const State = enum(u32) { idle, connecting, ready, transient_failure, shutdown };

/// Saved state of an instance.
pub const Saved = extern struct {
    /// The policy's own number for the format of `data`.
    schema: u32,
    data: Text,

    pub fn of(schema: u32, data: []const u8) Saved {
        return .{ .schema = schema, .data = Text.of(data) };
    }
};

pub const Description = struct {
    /// What the policy does, in a few words.
    summary: []const u8,
    /// A JSON Schema of the configuration, or "".
    config_schema: []const u8,
};

const Declared = extern struct {
    is_error: bool,
    value: extern union { number: u32, text: Text },

    fn number(self: Declared) Number {
        return if (self.is_error) .{ .refused = self.value.text.slice() } else .{ .number = self.value.number };
    }
    fn refusal(self: Declared) ?[]const u8 {
        return if (self.is_error) self.value.text.slice() else null;
    }
};

fn Option(comptime T: type) type {
    return extern struct {
        is_some: bool,
        value: T,

        fn get(self: @This()) ?T {
            return if (self.is_some) self.value else null;
        }
    };
}

/// The number of something that was declared, or why it is refused.
pub const Number = union(enum) {
    number: u32,
    refused: []const u8,

    /// Stores the number, or returns why it is refused.
    pub fn store(self: Number, into: *u32) ?[]const u8 {
        switch (self) {
            .number => |id| into.* = id,
            .refused => |why| return why,
        }
        return null;
    }
};

pub const env = struct {
    const imports = struct {
        extern "hotpick:policy/env@0.1.0" fn @"method-name"(method: u32, name: *Text) void;
        extern "hotpick:policy/env@0.1.0" fn log(level: u32, ptr: [*]const u8, len: usize) void;
        extern "hotpick:policy/env@0.1.0" fn @"level-enabled"(level: u32) bool;
    };
    /// Returns a uniformly distributed number. In a pick, `info.random` is cheaper.
    pub extern "hotpick:policy/env@0.1.0" fn random() u64;
    /// Returns the current time. In a pick, `info.now` is cheaper.
    pub extern "hotpick:policy/env@0.1.0" fn now() Nanos;

    pub const Level = enum(u32) { trace, debug, info, warn, @"error" };

    /// Returns the name of a method. Empty for 4,096, which stands for many methods. The caller frees it with `free`.
    pub fn methodName(method: u32) []const u8 {
        var name: Text = undefined;
        imports.@"method-name"(method, &name);
        return name.slice();
    }
    /// Writes a line to the host's log.
    pub fn log(level: Level, line: []const u8) void {
        imports.log(@intFromEnum(level), at(u8, line), line.len);
    }
    pub fn levelEnabled(level: Level) bool {
        return imports.@"level-enabled"(@intFromEnum(level));
    }
};

/// The host's statistics of each subconn.
pub const stats = struct {
    const imports = struct {
        extern "hotpick:policy/stats@0.1.0" fn @"in-flight"(id: SubConn) u32;
        extern "hotpick:policy/stats@0.1.0" fn least(among: [*]const SubConn, len: usize, by: u32, found: *Option(u32)) void;
        extern "hotpick:policy/stats@0.1.0" fn read(id: SubConn, found: *Option(Summary)) void;
        extern "hotpick:policy/stats@0.1.0" fn responses(id: SubConn, found: *Option(Responses)) void;
    };

    pub const Measure = enum(u32) { in_flight, latency_ewma, failure_rate_ewma };

    pub const Summary = extern struct {
        in_flight: u32,
        /// That the peer allows; the largest u32 if there is no known limit.
        max_streams: u32,
        picked: u64,
        succeeded: u64,
        failed: u64,
        /// 0 before the first RPC has ended.
        latency_ewma: Nanos,
        /// 0 if the subconn is not ready.
        ready_since: Nanos,
    };

    /// Counters that never decrease, but for the first three fields. See `response-counts` in policy.wit.
    pub const Responses = extern struct {
        in_flight: u32,
        max_streams: u32,
        silence: Nanos,
        begun: u64,
        waited: Nanos,
        abandoned: u64,
        abandoned_after: Nanos,
        ended: u64,
        faulty: u64,
    };

    /// Returns the number of RPCs in flight; 0 for an unknown subconn.
    pub fn inFlight(id: SubConn) u32 {
        return imports.@"in-flight"(id);
    }
    /// Returns the subconn with the lowest value, the earlier one if equal. Null if no known one is left.
    pub fn least(among: []const SubConn, by: Measure) ?SubConn {
        var found: Option(u32) = undefined;
        imports.least(at(u32, among), among.len, @intFromEnum(by), &found);
        return found.get();
    }
    /// Returns the statistics of a subconn. Null if it is unknown.
    pub fn read(id: SubConn) ?Summary {
        var found: Option(Summary) = undefined;
        imports.read(id, &found);
        return found.get();
    }
    /// Returns the counters of a subconn's responses. Null if it is unknown.
    pub fn responses(id: SubConn) ?Responses {
        var found: Option(Responses) = undefined;
        imports.responses(id, &found);
        return found.get();
    }
};

/// The RPC being picked for.
pub const call = struct {
    const imports = struct {
        extern "hotpick:policy/call@0.1.0" fn @"declare-metadata"(ptr: [*]const u8, len: usize, result: *Declared) void;
        extern "hotpick:policy/call@0.1.0" fn @"declare-affinity"(key: u32, result: *Declared) void;
        extern "hotpick:policy/call@0.1.0" fn @"declare-affinity-number"(key: u32, result: *Declared) void;
        extern "hotpick:policy/call@0.1.0" fn metadata(key: u32, result: *Option(Text)) void;
        extern "hotpick:policy/call@0.1.0" fn @"metadata-all"(key: u32, result: *List(Text)) void;
        extern "hotpick:policy/call@0.1.0" fn @"metadata-hash"(key: u32, result: *Option(u64)) void;
        extern "hotpick:policy/call@0.1.0" fn @"metadata-number"(key: u32, result: *Option(u64)) void;
        extern "hotpick:policy/call@0.1.0" fn @"set-metadata"(key: [*]const u8, key_len: usize, value: [*]const u8, len: usize, result: *Declared) void;
        extern "hotpick:policy/call@0.1.0" fn @"time-left"(result: *Option(Nanos)) void;
        extern "hotpick:policy/call@0.1.0" fn explain(ptr: [*]const u8, len: usize) void;
    };
    /// Returns whether an earlier attempt of the same RPC used this subconn.
    pub extern "hotpick:policy/call@0.1.0" fn tried(id: SubConn) bool;

    /// Declares a metadata key that picks will read. In `init` only.
    pub fn declareMetadata(key: []const u8) Number {
        var result: Declared = undefined;
        imports.@"declare-metadata"(at(u8, key), key.len, &result);
        return result.number();
    }
    /// Makes `affinity` the hash of this declared key's value. In `init` only. Returns null, or why it is refused.
    pub fn declareAffinity(key: u32) ?[]const u8 {
        var result: Declared = undefined;
        imports.@"declare-affinity"(key, &result);
        return result.refusal();
    }
    /// Makes `affinity` the number of this declared key's value. In `init` only. Returns null, or why it is refused.
    pub fn declareAffinityNumber(key: u32) ?[]const u8 {
        var result: Declared = undefined;
        imports.@"declare-affinity-number"(key, &result);
        return result.refusal();
    }
    /// Returns the first value of a declared key, or null. The caller frees it with `free`.
    pub fn metadata(key: u32) ?[]const u8 {
        var result: Option(Text) = undefined;
        imports.metadata(key, &result);
        return if (result.get()) |text| text.slice() else null;
    }
    /// Returns all values of a declared key. The caller frees each, and the list, with `free`.
    pub fn metadataAll(key: u32) []Text {
        var result: List(Text) = undefined;
        imports.@"metadata-all"(key, &result);
        return result.slice();
    }
    /// Returns the XXH64 of a declared key's value, or null. Equal hashes do not mean equal values.
    pub fn metadataHash(key: u32) ?u64 {
        var result: Option(u64) = undefined;
        imports.@"metadata-hash"(key, &result);
        return result.get();
    }
    /// Returns a number that identifies the first value of a declared key, or null.
    pub fn metadataNumber(key: u32) ?u64 {
        var result: Option(u64) = undefined;
        imports.@"metadata-number"(key, &result);
        return result.get();
    }
    /// Sets metadata of the request, if this pick sends it. Returns null, or why it is refused.
    pub fn setMetadata(key: []const u8, value: []const u8) ?[]const u8 {
        var result: Declared = undefined;
        imports.@"set-metadata"(at(u8, key), key.len, at(u8, value), value.len, &result);
        return result.refusal();
    }
    /// Returns the time left until the RPC's deadline. Null if it has none.
    pub fn timeLeft() ?Nanos {
        var result: Option(Nanos) = undefined;
        imports.@"time-left"(&result);
        return result.get();
    }
    /// Sets the text of the status if this pick fails or drops the RPC.
    pub fn explain(message: []const u8) void {
        imports.explain(at(u8, message), message.len);
    }
};

/// Instruments of the policy, `hotpick_policy_NAME`. Created in `init` only.
pub const metrics = struct {
    const imports = struct {
        extern "hotpick:policy/metrics@0.1.0" fn counter(name: [*]const u8, len: usize, help: [*]const u8, help_len: usize, result: *Declared) void;
        extern "hotpick:policy/metrics@0.1.0" fn gauge(name: [*]const u8, len: usize, help: [*]const u8, help_len: usize, result: *Declared) void;
        extern "hotpick:policy/metrics@0.1.0" fn histogram(name: [*]const u8, len: usize, help: [*]const u8, help_len: usize, buckets: [*]const f64, count: usize, result: *Declared) void;
    };
    /// Adds to a counter.
    pub extern "hotpick:policy/metrics@0.1.0" fn add(id: u32, delta: u64) void;
    /// Sets a gauge, or records a value in a histogram.
    pub extern "hotpick:policy/metrics@0.1.0" fn observe(id: u32, value: f64) void;

    pub fn counter(name: []const u8, help: []const u8) Number {
        var result: Declared = undefined;
        imports.counter(at(u8, name), name.len, at(u8, help), help.len, &result);
        return result.number();
    }
    pub fn gauge(name: []const u8, help: []const u8) Number {
        var result: Declared = undefined;
        imports.gauge(at(u8, name), name.len, at(u8, help), help.len, &result);
        return result.number();
    }
    /// `buckets` are the upper bounds: finite, not negative and ascending.
    pub fn histogram(name: []const u8, help: []const u8, buckets: []const f64) Number {
        var result: Declared = undefined;
        imports.histogram(at(u8, name), name.len, at(u8, help), help.len, at(f64, buckets), buckets.len, &result);
        return result.number();
    }
};

/// One-shot timers, delivered to `alarm`.
pub const timers = struct {
    const imports = struct {
        extern "hotpick:policy/timers@0.1.0" fn schedule(id: u32, delay: Nanos, result: *Declared) void;
    };
    pub extern "hotpick:policy/timers@0.1.0" fn cancel(id: u32) void;

    /// Sets the timer `id`, a number that the policy chooses. Replaces the timer if it is set already. Returns null, or
    /// why it is refused.
    pub fn schedule(id: u32, delay: Nanos) ?[]const u8 {
        var result: Declared = undefined;
        imports.schedule(id, delay, &result);
        return result.refusal();
    }
};

/// Control of connections. By default the host connects every subconn and keeps it connected.
pub const connections = struct {
    const imports = struct {
        extern "hotpick:policy/connections@0.1.0" fn @"declare-lazy"() void;
        extern "hotpick:policy/connections@0.1.0" fn @"resolve-now"() void;
    };
    /// Requests that an idle subconn connect.
    pub extern "hotpick:policy/connections@0.1.0" fn connect(id: SubConn) void;
    /// Requests that a connecting or ready subconn become idle.
    pub extern "hotpick:policy/connections@0.1.0" fn disconnect(id: SubConn) void;

    /// Makes the host connect a subconn only on request. In `init` only.
    pub fn declareLazy() void {
        imports.@"declare-lazy"();
    }
    /// Requests a new resolution of the channel's target.
    pub fn resolveNow() void {
        imports.@"resolve-now"();
    }
};

/// Frees memory that the host allocated.
pub fn free(memory: anytype) void {
    allocator.free(memory);
}

/// Reads a configuration into a struct whose fields have defaults. The configuration may have only these fields. They
/// are booleans, integers, floats, texts, enums, structs, optionals, and slices of these. A field of a nested struct may
/// have no default, and must be there then. Returns null, or a sentence that says what is wrong.
pub fn readConfig(comptime Config: type, into: *Config, config: []const u8) ?[]const u8 {
    const value = std.json.parseFromSliceLeaky(std.json.Value, allocator, config, .{ .duplicate_field_behavior = .use_last }) catch return "the configuration is not JSON";
    if (value != .object) return "the configuration is not a JSON object";
    return readValue(Config, into, value, "");
}

fn wrong(comptime where: []const u8, comptime what: []const u8) []const u8 {
    return where ++ ": must be " ++ what;
}

fn readValue(comptime T: type, into: *T, value: std.json.Value, comptime where: []const u8) ?[]const u8 {
    switch (@typeInfo(T)) {
        .bool => if (value == .bool) {
            into.* = value.bool;
        } else return wrong(where, "true or false"),
        .int => {
            const whole: i64 = switch (value) {
                .integer => |number| if (@abs(number) < 1 << 53) number else return wrong(where, "a whole number"),
                .float => |number| if (number == @trunc(number) and @abs(number) < 0x1p53) @intFromFloat(number) else return wrong(where, "a whole number"),
                else => return wrong(where, "a whole number"),
            };
            into.* = std.math.cast(T, whole) orelse return where ++ ": is too small or too large";
        },
        .float => into.* = switch (value) {
            .integer => |number| @floatFromInt(number),
            .float => |number| number,
            else => return wrong(where, "a number"),
        },
        .@"enum" => {
            const text = if (value == .string) value.string else return wrong(where, "a string");
            into.* = std.meta.stringToEnum(T, text) orelse return wrong(where, choices(T));
        },
        .optional => |optional| if (value == .null) {
            into.* = null;
        } else {
            var some: optional.child = undefined;
            if (readValue(optional.child, &some, value, where)) |why| return why;
            into.* = some;
        },
        .pointer => |pointer| if (pointer.child == u8) {
            into.* = if (value == .string) value.string else return wrong(where, "a string");
        } else {
            const list = if (value == .array) value.array.items else return wrong(where, "a list");
            const items = allocator.alloc(pointer.child, list.len) catch @trap();
            for (items, list) |*item, its| if (readValue(pointer.child, item, its, where)) |why| return why;
            into.* = items;
        },
        .@"struct" => return readFields(T, into, value, where),
        else => @compileError("a setting cannot be a " ++ @typeName(T)),
    }
    return null;
}

fn choices(comptime T: type) []const u8 {
    comptime var all: []const u8 = "";
    inline for (std.meta.fieldNames(T), 0..) |name, i| all = all ++ (if (i > 0) " or " else "") ++ "\"" ++ name ++ "\"";
    return all;
}

fn readFields(comptime T: type, into: *T, value: std.json.Value, comptime where: []const u8) ?[]const u8 {
    const object = if (value == .object) value.object else return wrong(where, "an object");
    const place = if (where.len > 0) where ++ "." else "";
    var all = object.iterator();
    while (all.next()) |its| {
        if (!hasField(T, its.key_ptr.*)) {
            return std.mem.concat(allocator, u8, &.{ place, its.key_ptr.*, ": there is no such setting" }) catch @trap();
        }
    }
    inline for (comptime std.meta.fieldNames(T), 0..) |name, i| {
        if (object.get(name)) |its| {
            if (readValue(@FieldType(T, name), &@field(into, name), its, place ++ name)) |why| return why;
        } else if (defaultOf(T, i)) |default| {
            @field(into, name) = default;
        } else return place ++ name ++ ": is missing";
    }
    return null;
}

// The type information of structs is another one from Zig 0.17 on.
const is_old = @hasField(@TypeOf(@typeInfo(struct {}).@"struct"), "fields");

fn defaultOf(comptime T: type, comptime i: usize) ?@FieldType(T, std.meta.fieldNames(T)[i]) {
    const info = @typeInfo(T).@"struct";
    return if (is_old) info.fields[i].defaultValue() else info.field_attrs[i].defaultValue(info.field_types[i]);
}

fn declarationsOf(comptime T: type) []const [:0]const u8 {
    const info = @typeInfo(T).@"struct";
    if (!is_old) return info.decl_names;
    var names: []const [:0]const u8 = &.{};
    for (info.decls) |its| names = names ++ .{its.name};
    return names;
}

fn hasField(comptime T: type, name: []const u8) bool {
    inline for (comptime std.meta.fieldNames(T)) |its| if (std.mem.eql(u8, its, name)) return true;
    return false;
}

/// Exports a policy: a struct with these functions. `init` returns null, or why the configuration is refused.
///
///     fn init(self: *Policy, config: []const u8, where: Placement) !?[]const u8
///     fn endpoints(self: *Policy, added: []const Endpoint, removed: []const SubConn, now: Nanos) !void
///     fn ready(self: *Policy, ready: []const SubConn, now: Nanos) !void
///     fn pick(self: *Policy, info: PickInfo) PickResult
///
/// An optional part is exported if the struct has its function:
///
///     fn outcomes(self: *Policy, batch: []const Outcome, now: Nanos) !void
///     fn plan(self: *Policy, budget: u32, random: u64, now: Nanos) !Plan
///     fn connectivity(self: *Policy, id: SubConn, state: State, message: []const u8, now: Nanos) !void
///     fn alarm(self: *Policy, id: u32, now: Nanos) !void
///     fn save(self: *Policy) !Saved                              // valid until the next call of the policy
///     fn restore(self: *Policy, parts: []const Saved) !?[]const u8   // null, or why it cannot
///     fn describe() Description
///
/// A policy has no other public functions, so that a misspelled one is found. An error, such as a lack of memory, ends
/// the instance, and the host starts another one.
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
            if (why) |text| refused.text = Text.of(text);
            return &refused;
        }

        fn outcomes(ptr: [*]Outcome, len: usize, now: Nanos) callconv(.c) void {
            self.outcomes(ptr[0..len], now) catch @trap();
            free(ptr[0..len]);
        }

        const Planned = extern struct { what: u8, picks: List(SubConn) };
        var planned: Planned = undefined;

        fn plan(budget: u32, random: u64, now: Nanos) callconv(.c) *Planned {
            const made: Plan = self.plan(budget, random, now) catch @trap();
            planned = switch (made) {
                .none => .{ .what = 0, .picks = undefined },
                .sequence => |picks| .{ .what = 1, .picks = List(SubConn).of(picks) },
                .by_affinity => |picks| .{ .what = 2, .picks = List(SubConn).of(picks) },
            };
            return &planned;
        }

        fn connectivity(id: SubConn, state: u32, ptr: [*]u8, len: usize, now: Nanos) callconv(.c) void {
            self.connectivity(id, @enumFromInt(state), ptr[0..len], now) catch @trap();
            free(ptr[0..len]);
        }

        fn alarm(id: u32, now: Nanos) callconv(.c) void {
            self.alarm(id, now) catch @trap();
        }

        var saved: Saved = undefined;

        fn save() callconv(.c) *Saved {
            saved = self.save() catch @trap();
            return &saved;
        }

        fn restore(ptr: [*]Saved, len: usize) callconv(.c) *Refused {
            const parts = ptr[0..len];
            const why = self.restore(parts) catch @trap();
            for (parts) |part| free(part.data.slice());
            free(parts);
            refused.is_error = why != null;
            if (why) |text| refused.text = Text.of(text);
            return &refused;
        }

        var description: [2]Text = undefined;

        fn describe() callconv(.c) *[2]Text {
            const its: Description = Policy.describe();
            description = .{ Text.of(its.summary), Text.of(its.config_schema) };
            return &description;
        }

        fn endpoints(added_ptr: [*]Endpoint, added_len: usize, removed_ptr: [*]SubConn, removed_len: usize, now: Nanos) callconv(.c) void {
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
    @export(&exports.endpoints, .{ .name = "hotpick:policy/endpoints@0.1.0#changed" });
    @export(&exports.ready, .{ .name = "hotpick:policy/endpoints@0.1.0#ready" });
    @export(&exports.pick, .{ .name = "hotpick:policy/picker@0.1.0#pick" });
    @export(&exports.realloc, .{ .name = "cabi_realloc" });
    if (@hasDecl(Policy, "outcomes")) @export(&exports.outcomes, .{ .name = "hotpick:policy/outcomes@0.1.0#done" });
    if (@hasDecl(Policy, "plan")) @export(&exports.plan, .{ .name = "hotpick:policy/plans@0.1.0#make" });
    if (@hasDecl(Policy, "connectivity")) @export(&exports.connectivity, .{ .name = "hotpick:policy/connectivity@0.1.0#changed" });
    if (@hasDecl(Policy, "alarm")) @export(&exports.alarm, .{ .name = "hotpick:policy/alarms@0.1.0#fired" });
    if (@hasDecl(Policy, "save")) @export(&exports.save, .{ .name = "hotpick:policy/handover@0.1.0#save" });
    if (@hasDecl(Policy, "restore")) @export(&exports.restore, .{ .name = "hotpick:policy/handover@0.1.0#restore" });
    if (@hasDecl(Policy, "describe")) @export(&exports.describe, .{ .name = "hotpick:policy/about@0.1.0#describe" });
    const Contract = enum { init, endpoints, ready, pick, outcomes, plan, connectivity, alarm, save, restore, describe };
    for (declarationsOf(Policy)) |name| {
        if (!@hasField(Contract, name) and @typeInfo(@TypeOf(@field(Policy, name))) == .@"fn") {
            @compileError("`" ++ name ++ "` is not a function of the contract: leave out `pub`");
        }
    }
}
