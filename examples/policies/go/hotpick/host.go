package hotpick

import (
	"errors"
	"structs"
	"unsafe"
)

// The functions that the host provides. What is declared, and instruments, are declared only in Init.

//go:wasmimport hotpick:policy/env@0.1.0 method-name
func importMethodName(method uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/env@0.1.0 now
func importNow() uint64

//go:wasmimport hotpick:policy/env@0.1.0 random
func importRandom() uint64

//go:wasmimport hotpick:policy/env@0.1.0 log
func importLog(level, at, length uint32)

//go:wasmimport hotpick:policy/env@0.1.0 level-enabled
func importLevelEnabled(level uint32) uint32

//go:wasmimport hotpick:policy/stats@0.1.0 in-flight
func importInFlight(id uint32) uint32

//go:wasmimport hotpick:policy/stats@0.1.0 least
func importLeast(at unsafe.Pointer, count, by uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/stats@0.1.0 read
func importStats(id uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/stats@0.1.0 responses
func importResponses(id uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/call@0.1.0 declare-metadata
func importDeclare(at, length uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/call@0.1.0 declare-affinity
func importAffinity(key uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/call@0.1.0 declare-affinity-number
func importAffinityNumber(key uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/call@0.1.0 metadata
func importMetadata(key uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/call@0.1.0 metadata-all
func importMetadataAll(key uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/call@0.1.0 metadata-hash
func importHash(key uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/call@0.1.0 metadata-number
func importNumber(key uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/call@0.1.0 set-metadata
func importSetMetadata(key, keyLength, value, length uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/call@0.1.0 tried
func importTried(id uint32) uint32

//go:wasmimport hotpick:policy/call@0.1.0 time-left
func importTimeLeft(result unsafe.Pointer)

//go:wasmimport hotpick:policy/call@0.1.0 explain
func importExplain(at, length uint32)

//go:wasmimport hotpick:policy/metrics@0.1.0 counter
func importCounter(name, length, help, helpLength uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/metrics@0.1.0 gauge
func importGauge(name, length, help, helpLength uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/metrics@0.1.0 histogram
func importHistogram(name, length, help, helpLength uint32, buckets unsafe.Pointer, count uint32, result unsafe.Pointer)

//go:wasmimport hotpick:policy/metrics@0.1.0 add
func importAdd(id uint32, delta uint64)

//go:wasmimport hotpick:policy/metrics@0.1.0 observe
func importObserve(id uint32, value float64)

//go:wasmimport hotpick:policy/timers@0.1.0 schedule
func importSchedule(id uint32, delay uint64, result unsafe.Pointer)

//go:wasmimport hotpick:policy/timers@0.1.0 cancel
func importCancel(id uint32)

//go:wasmimport hotpick:policy/connections@0.1.0 declare-lazy
func importLazy()

//go:wasmimport hotpick:policy/connections@0.1.0 connect
func importConnect(id uint32)

//go:wasmimport hotpick:policy/connections@0.1.0 disconnect
func importDisconnect(id uint32)

//go:wasmimport hotpick:policy/connections@0.1.0 resolve-now
func importResolveNow()

// What imports return is stored in these, and not in local variables: a Go stack may move while the host writes to it.
var (
	given struct {
		_       structs.HostLayout
		isError uint32
		value   text // or a number, stored in `at`
	}
	found struct {
		_      structs.HostLayout
		isSome uint32
		value  text // or a number of 32 bits, stored in `at`
	}
	found64 struct {
		_      structs.HostLayout
		isSome uint64
		value  uint64
	}
	foundText  text
	foundStats struct {
		_      structs.HostLayout
		isSome uint64
		value  Stats
	}
	foundResponses struct {
		_      structs.HostLayout
		isSome uint64
		value  Responses
	}
)

// failure returns the error of the last result.
func failure() error {
	if given.isError&0xff == 0 {
		return nil
	}
	err := errors.New(given.value.string())
	taken()
	return err
}

// env

// Level is the severity of a log message.
type Level uint32

// The levels.
const (
	Trace Level = iota
	Debug
	Info
	Warn
	Error
)

// MethodName returns the name of a method. Empty for 4,096, which stands for many methods.
func MethodName(method uint32) string {
	importMethodName(method, unsafe.Pointer(&foundText))
	name := string(list[byte](foundText.at, foundText.length))
	taken()
	return name
}

// Now returns the current time. In a pick, PickInfo.Now is cheaper.
func Now() Nanos { return Nanos(importNow()) }

// Random returns a uniformly distributed number. In a pick, PickInfo.Random is cheaper.
func Random() uint64 { return importRandom() }

// Log writes a line to the host's log.
func Log(level Level, line string) {
	t := textOf(line)
	importLog(uint32(level), t.at, t.length)
}

// LevelEnabled reports whether the host uses messages of this level.
func LevelEnabled(level Level) bool { return importLevelEnabled(uint32(level)) != 0 }

// stats

// Measure is a statistic by which Least compares subconns.
type Measure uint32

// The measures.
const (
	ByInFlight Measure = iota
	ByLatency
	ByFailureRate
)

// Stats are the host's statistics of a subconn.
type Stats struct {
	_        structs.HostLayout
	InFlight uint32
	// MaxStreams is what the peer allows; the largest uint32 if there is no known limit.
	MaxStreams                uint32
	Picked, Succeeded, Failed uint64
	// LatencyEWMA is 0 before the first RPC has ended.
	LatencyEWMA Nanos
	// ReadySince is 0 if the subconn is not ready.
	ReadySince Nanos
}

// Responses are counters that never decrease, but for the first three fields. See response-counts in policy.wit.
type Responses struct {
	_                    structs.HostLayout
	InFlight, MaxStreams uint32
	Silence              Nanos
	Begun                uint64
	Waited               Nanos
	Abandoned            uint64
	AbandonedAfter       Nanos
	Ended, Faulty        uint64
}

// InFlight returns the number of RPCs in flight; 0 for an unknown subconn.
func InFlight(id SubConn) uint32 { return importInFlight(uint32(id)) }

// Least returns the subconn with the lowest value, the earlier one if equal. False if no known one is left.
func Least(among []SubConn, by Measure) (SubConn, bool) {
	importLeast(unsafe.Pointer(unsafe.SliceData(among)), uint32(len(among)), uint32(by), unsafe.Pointer(&found))
	return SubConn(found.value.at), found.isSome&0xff != 0
}

// StatsOf returns the statistics of a subconn. False if it is unknown.
func StatsOf(id SubConn) (Stats, bool) {
	importStats(uint32(id), unsafe.Pointer(&foundStats))
	return foundStats.value, foundStats.isSome&0xff != 0
}

// ResponsesOf returns the counters of a subconn's responses. False if it is unknown.
func ResponsesOf(id SubConn) (Responses, bool) {
	importResponses(uint32(id), unsafe.Pointer(&foundResponses))
	return foundResponses.value, foundResponses.isSome&0xff != 0
}

// call: the RPC being picked for.

// Key is a declared metadata key.
type Key uint32

// DeclareMetadata declares a metadata key that picks will read. In Init only.
func DeclareMetadata(name string) (Key, error) {
	t := textOf(name)
	importDeclare(t.at, t.length, unsafe.Pointer(&given))
	return Key(given.value.at), failure()
}

// DeclareAffinity makes PickInfo.Affinity the hash of the key's value. In Init only.
func (k Key) DeclareAffinity() error {
	importAffinity(uint32(k), unsafe.Pointer(&given))
	return failure()
}

// DeclareAffinityNumber makes PickInfo.Affinity the number of the key's value. In Init only.
func (k Key) DeclareAffinityNumber() error {
	importAffinityNumber(uint32(k), unsafe.Pointer(&given))
	return failure()
}

// Metadata returns the key's first value. The bytes are valid until Pick returns. (A map lookup by string(value) copies
// nothing.)
func (k Key) Metadata() (value []byte, ok bool) {
	importMetadata(uint32(k), unsafe.Pointer(&found))
	if found.isSome&0xff == 0 {
		return nil, false
	}
	value = list[byte](found.value.at, found.value.length)
	taken()
	return value, true
}

// MetadataAll returns all values of the key.
func (k Key) MetadataAll() [][]byte {
	importMetadataAll(uint32(k), unsafe.Pointer(&foundText))
	var values [][]byte
	for _, value := range list[text](foundText.at, foundText.length) {
		values = append(values, append([]byte(nil), list[byte](value.at, value.length)...))
	}
	taken()
	return values
}

// MetadataHash returns the XXH64 of the key's value. Equal hashes do not mean equal values.
func (k Key) MetadataHash() (hash uint64, ok bool) {
	importHash(uint32(k), unsafe.Pointer(&found64))
	return found64.value, found64.isSome&0xff != 0
}

// MetadataNumber returns a number that identifies the key's first value.
func (k Key) MetadataNumber() (number uint64, ok bool) {
	importNumber(uint32(k), unsafe.Pointer(&found64))
	return found64.value, found64.isSome&0xff != 0
}

// SetMetadata sets metadata of the request, if this pick sends it.
func SetMetadata(key, value string) error {
	k, v := textOf(key), textOf(value)
	importSetMetadata(k.at, k.length, v.at, v.length, unsafe.Pointer(&given))
	return failure()
}

// Tried reports whether an earlier attempt of the same RPC used this subconn.
func Tried(id SubConn) bool { return importTried(uint32(id)) != 0 }

// TimeLeft returns the time left until the RPC's deadline. False if it has none.
func TimeLeft() (Nanos, bool) {
	importTimeLeft(unsafe.Pointer(&found64))
	return Nanos(found64.value), found64.isSome&0xff != 0
}

// Explain sets the text of the status if this pick fails or drops the RPC.
func Explain(message string) {
	t := textOf(message)
	importExplain(t.at, t.length)
}

// metrics: instruments of the policy, hotpick_policy_NAME. Made in Init only.

// Counter counts.
type Counter uint32

// NewCounter makes a counter.
func NewCounter(name, help string) (Counter, error) {
	n, h := textOf(name), textOf(help)
	importCounter(n.at, n.length, h.at, h.length, unsafe.Pointer(&given))
	return Counter(given.value.at), failure()
}

// Add adds to the counter.
func (c Counter) Add(delta uint64) { importAdd(uint32(c), delta) }

// Gauge has a value.
type Gauge uint32

// NewGauge makes a gauge.
func NewGauge(name, help string) (Gauge, error) {
	n, h := textOf(name), textOf(help)
	importGauge(n.at, n.length, h.at, h.length, unsafe.Pointer(&given))
	return Gauge(given.value.at), failure()
}

// Set sets the gauge.
func (g Gauge) Set(value float64) { importObserve(uint32(g), value) }

// Histogram counts values by their size.
type Histogram uint32

// NewHistogram makes a histogram. The buckets are its upper bounds: finite, not negative and ascending.
func NewHistogram(name, help string, buckets []float64) (Histogram, error) {
	n, h := textOf(name), textOf(help)
	b := unsafe.Pointer(unsafe.SliceData(buckets))
	importHistogram(n.at, n.length, h.at, h.length, b, uint32(len(buckets)), unsafe.Pointer(&given))
	return Histogram(given.value.at), failure()
}

// Record records a value.
func (h Histogram) Record(value float64) { importObserve(uint32(h), value) }

// timers: delivered to package alarms.

// Schedule sets the timer `id`, a number that the policy chooses. Replaces the timer if it is set already.
func Schedule(id uint32, delay Nanos) error {
	importSchedule(id, uint64(delay), unsafe.Pointer(&given))
	return failure()
}

// Cancel cancels the timer `id`.
func Cancel(id uint32) { importCancel(id) }

// connections: by default the host connects every subconn and keeps it connected.

// DeclareLazy makes the host connect a subconn only on request. In Init only.
func DeclareLazy() { importLazy() }

// Connect requests that an idle subconn connect.
func Connect(id SubConn) { importConnect(uint32(id)) }

// Disconnect requests that a connecting or ready subconn become idle.
func Disconnect(id SubConn) { importDisconnect(uint32(id)) }

// ResolveNow requests a new resolution of the channel's target.
func ResolveNow() { importResolveNow() }
