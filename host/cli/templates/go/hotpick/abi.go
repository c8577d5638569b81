package hotpick

import (
	"errors"
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

var refused struct {
	_       structs.HostLayout
	isError uint32
	text    text
}

// Keeps the text alive while the host reads it.
var reason string

//go:wasmexport hotpick:policy/lifecycle@0.1.0#init
func exportInit(config, configLength, target, targetLength, shard, shards uint32, seed, generation uint64) unsafe.Pointer {
	where := Placement{text{at: target, length: targetLength}.string(), shard, shards, seed, generation}
	made, err := initialize(text{at: config, length: configLength}.string(), where)
	taken()
	policy = made
	refused.isError = 0
	if err != nil {
		reason = err.Error()
		refused.isError, refused.text = 1, textOf(reason)
	}
	return unsafe.Pointer(&refused)
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

//go:wasmimport hotpick:policy/call@0.1.0 declare-metadata
func importDeclare(at, length uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/call@0.1.0 declare-affinity
func importAffinity(key uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/call@0.1.0 metadata
func importMetadata(key uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/call@0.1.0 tried
func importTried(id uint32) uint32

//go:wasmimport hotpick:policy/call@0.1.0 explain
func importExplain(at, length uint32)

//go:wasmimport hotpick:policy/stats@0.1.0 in-flight
func importInFlight(id uint32) uint32

// Key is a declared metadata key.
type Key uint32

type declared struct {
	_       structs.HostLayout
	isError uint32
	value   text // or a number, stored in `at`
}

func (d *declared) err() error {
	if d.isError&0xff == 0 {
		return nil
	}
	err := errors.New(d.value.string())
	taken()
	return err
}

// DeclareMetadata declares a metadata key that picks will read. In Init only.
func DeclareMetadata(name string) (Key, error) {
	var result declared
	t := textOf(name)
	importDeclare(t.at, t.length, unsafe.Pointer(&result))
	return Key(result.value.at), result.err()
}

// DeclareAffinity makes PickInfo.Affinity the hash of the key's value. In Init only.
func (k Key) DeclareAffinity() error {
	var result declared
	importAffinity(uint32(k), unsafe.Pointer(&result))
	return result.err()
}

// Not a local variable: imports write to it, and a Go stack may move.
var found struct {
	_      structs.HostLayout
	isSome uint32
	text   text
}

// Metadata returns the key's first value, of the RPC being picked for. The bytes are valid until Pick returns. (A map
// lookup by string(value) copies nothing.)
func (k Key) Metadata() (value []byte, ok bool) {
	importMetadata(uint32(k), unsafe.Pointer(&found))
	if found.isSome&0xff == 0 {
		return nil, false
	}
	value = list[byte](found.text.at, found.text.length)
	taken()
	return value, true
}

// Explain sets the text of the status if this pick fails or drops the RPC.
func Explain(message string) {
	t := textOf(message)
	importExplain(t.at, t.length)
}

// Tried reports whether an earlier attempt of the same RPC used this subconn.
func Tried(id SubConn) bool { return importTried(uint32(id)) != 0 }

// InFlight returns the number of RPCs in flight; 0 for an unknown subconn.
func InFlight(id SubConn) uint32 { return importInFlight(uint32(id)) }
