// Package about is the optional part that describes the policy, for tools.
package about

import (
	"structs"
	"unsafe"

	"example.com/policies/hotpick"
)

// Description describes a policy.
type Description struct {
	// Summary is what the policy does, in a few words.
	Summary string
	// ConfigSchema is a JSON Schema of the configuration, or empty.
	ConfigSchema string
}

var described Description

// Part returns the argument of hotpick.Register.
func Part(description Description) hotpick.Part {
	described = description
	return hotpick.Part{Name: "about", IsImplemented: func(hotpick.Policy) bool { return true }}
}

var result struct {
	_                 structs.HostLayout
	summary, length   uint32
	schema, itsLength uint32
}

//go:wasmexport hotpick:policy/about@0.1.0#describe
func describe() unsafe.Pointer {
	result.summary, result.length = uint32(uintptr(unsafe.Pointer(unsafe.StringData(described.Summary)))), uint32(len(described.Summary))
	result.schema = uint32(uintptr(unsafe.Pointer(unsafe.StringData(described.ConfigSchema))))
	result.itsLength = uint32(len(described.ConfigSchema))
	return unsafe.Pointer(&result)
}
