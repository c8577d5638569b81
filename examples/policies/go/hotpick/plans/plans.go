// Package plans is the optional part that picks ahead.
package plans

import (
	"structs"
	"unsafe"

	"example.com/policies/hotpick"
)

// Part is the argument of hotpick.Register.
var Part = hotpick.Part{Name: "plans", IsImplemented: func(p hotpick.Policy) bool { _, ok := p.(Policy); return ok }}

// Policy has the functions of this part.
type Policy interface {
	// Plan picks ahead, at most `budget` RPCs.
	Plan(budget uint32, random uint64, now hotpick.Nanos) Plan
}

// Plan is made by the functions below.
type Plan struct {
	what  uint8
	picks []hotpick.SubConn
}

// None is no plan: the host calls Pick.
func None() Plan { return Plan{} }

// Sequence is the next picks, in order.
func Sequence(picks []hotpick.SubConn) Plan { return Plan{1, picks} }

// ByAffinity is a table: the host takes entry `affinity mod length`.
func ByAffinity(picks []hotpick.SubConn) Plan { return Plan{2, picks} }

// Keeps the plan alive while the host reads it.
var current Plan

var result struct {
	_     structs.HostLayout
	what  uint8
	at    uint32
	count uint32
}

//go:wasmexport hotpick:policy/plans@0.1.0#make
func plan(budget uint32, random, now uint64) unsafe.Pointer {
	current = hotpick.Current().(Policy).Plan(budget, random, hotpick.Nanos(now))
	result.what, result.count = current.what, uint32(len(current.picks))
	result.at = uint32(uintptr(unsafe.Pointer(unsafe.SliceData(current.picks))))
	return unsafe.Pointer(&result)
}
