package hotpick

import (
	"structs"
	"unsafe"
)

// Glue code between the canonical ABI and the rest of the package. The host's pointers have 32 bits, Go's 64.

type text struct {
	_      structs.HostLayout
	at     uint32
	length uint32
}

// The string uses the same memory, which Go's garbage collector frees after the string.
func (t text) string() string {
	if t.length == 0 {
		return ""
	}
	return unsafe.String((*byte)(pointer(t.at)), t.length)
}

func textOf(s string) text {
	return text{at: uint32(uintptr(unsafe.Pointer(unsafe.StringData(s)))), length: uint32(len(s))}
}

// Memory that the host writes to stays where it is, because Go does not move heap objects.
func pointer(at uint32) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(&[1]uintptr{uintptr(at)}))
}

func list[T any](at, length uint32) []T {
	if length == 0 {
		return nil
	}
	return unsafe.Slice((*T)(pointer(at)), length)
}

type attribute struct {
	_          structs.HostLayout
	key, value text
}

type endpoint struct {
	_              structs.HostLayout
	id             SubConn
	addresses      uint32
	addressCount   uint32
	weight         uint32
	attributes     uint32
	attributeCount uint32
}

// Memory that the host allocated for the current call. Keeps it alive while nothing else points to it.
var handed [][]uint64

// Memory for what the host returns during a pick, if it fits; reused by the next pick. So picks create no garbage: a
// collection would take longer than a pick may.
var (
	scratch  [2048]uint64
	used     uint32
	isInPick bool
)

//go:wasmexport cabi_realloc
func cabiRealloc(old unsafe.Pointer, oldSize, align, size uint32) unsafe.Pointer {
	if size == 0 {
		return unsafe.Pointer(&scratch[0])
	}
	words := (size + 7) / 8
	if isInPick && used+words <= uint32(len(scratch)) {
		used += words
		return unsafe.Pointer(&scratch[used-words])
	}
	memory := make([]uint64, words)
	handed = append(handed, memory)
	return unsafe.Pointer(unsafe.SliceData(memory))
}

func taken() {
	clear(handed)
	handed = handed[:0]
}

var policy Policy

// Current returns the policy of the instance. Used by the packages of the optional parts.
func Current() Policy { return policy }

// Take forgets the memory that the host allocated for the current call, which then lives as long as something points to
// it. Used by the packages of the optional parts, after they have read their arguments.
func Take() { taken() }

var refused struct {
	_       structs.HostLayout
	isError uint32
	text    text
}

// Keeps the text alive while the host reads it.
var reason string

// Refusal returns a result<_, string> for the host. Used by this package and by handover.
func Refusal(err error) unsafe.Pointer {
	refused.isError = 0
	if err != nil {
		reason = err.Error()
		refused.isError, refused.text = 1, textOf(reason)
	}
	return unsafe.Pointer(&refused)
}

// String returns the text at an address that the host passed. Used by the packages of the optional parts.
func String(at, length uint32) string { return text{at: at, length: length}.string() }

// Slice returns the list at an address that the host passed. Used by the packages of the optional parts.
func Slice[T any](at, length uint32) []T { return list[T](at, length) }

//go:wasmexport hotpick:policy/lifecycle@0.1.0#init
func exportInit(config, configLength, target, targetLength, shard, shards uint32, seed, generation uint64) unsafe.Pointer {
	where := Placement{text{at: target, length: targetLength}.string(), shard, shards, seed, generation}
	made, err := start(text{at: config, length: configLength}.string(), where)
	taken()
	policy = made
	return Refusal(err)
}

//go:wasmexport hotpick:policy/endpoints@0.1.0#changed
func exportChanged(added, addedCount, removed, removedCount uint32, now uint64) {
	all := make([]Endpoint, 0, addedCount)
	for _, raw := range list[endpoint](added, addedCount) {
		endpoint := Endpoint{ID: raw.id, Weight: raw.weight, Attributes: make(map[string]string, raw.attributeCount)}
		for _, address := range list[text](raw.addresses, raw.addressCount) {
			endpoint.Addresses = append(endpoint.Addresses, address.string())
		}
		for _, its := range list[attribute](raw.attributes, raw.attributeCount) {
			endpoint.Attributes[its.key.string()] = its.value.string()
		}
		all = append(all, endpoint)
	}
	gone := list[SubConn](removed, removedCount)
	taken()
	policy.Endpoints(all, gone, Nanos(now))
}

//go:wasmexport hotpick:policy/endpoints@0.1.0#ready
func exportReady(ready, count uint32, now uint64) {
	all := list[SubConn](ready, count)
	taken()
	policy.Ready(all, Nanos(now))
}

var picked struct {
	_     structs.HostLayout
	what  uint8
	value uint32
}

var info PickInfo

//go:wasmexport hotpick:policy/picker@0.1.0#pick
func exportPick(call uint64, method, hasAffinity uint32, affinity, random, now uint64, attempt, waitForReady, requeued uint32) unsafe.Pointer {
	info = PickInfo{call, method, affinity, hasAffinity != 0, random, Nanos(now), attempt, waitForReady != 0, requeued != 0}
	isInPick, used = true, 0
	result := policy.Pick(&info)
	isInPick = false
	picked.what, picked.value = result.what, result.value
	return unsafe.Pointer(&picked)
}
