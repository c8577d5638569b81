// Package handover is the optional part that hands state over to the next version of the policy.
package handover

import (
	"structs"
	"unsafe"

	"example.com/policies/hotpick"
)

// Part is the argument of hotpick.Register.
var Part = hotpick.Part{Name: "handover", IsImplemented: func(p hotpick.Policy) bool { _, ok := p.(Policy); return ok }}

// Policy has the functions of this part.
type Policy interface {
	// Save returns the state.
	Save() Saved
	// Restore restores the states that instances saved, before the first call of Endpoints. After an error, an instance
	// without the state is started.
	Restore(parts []Saved) error
}

// Saved is the state of an instance.
type Saved struct {
	// Schema is the policy's own number for the format of Data.
	Schema uint32
	Data   string
}

type saved struct {
	_      structs.HostLayout
	schema uint32
	at     uint32
	length uint32
}

var (
	current Saved // alive while the host reads it
	result  saved
)

//go:wasmexport hotpick:policy/handover@0.1.0#save
func save() unsafe.Pointer {
	current = hotpick.Current().(Policy).Save()
	at := uint32(uintptr(unsafe.Pointer(unsafe.StringData(current.Data))))
	result.schema, result.at, result.length = current.Schema, at, uint32(len(current.Data))
	return unsafe.Pointer(&result)
}

//go:wasmexport hotpick:policy/handover@0.1.0#restore
func restore(parts, count uint32) unsafe.Pointer {
	var all []Saved
	for _, its := range hotpick.Slice[saved](parts, count) {
		all = append(all, Saved{its.schema, hotpick.String(its.at, its.length)})
	}
	hotpick.Take()
	return hotpick.Refusal(hotpick.Current().(Policy).Restore(all))
}
