package hotpick

import (
	"errors"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

var errMalformed = errors.New("the configuration is not JSON")

// List is a list in a configuration. Its items are of the types that Object has.
type List []any

// Object is an object in a configuration. Its values are nil, bool, float64, string, List or Object.
type Object map[string]any

// ReadConfig reads a configuration, which may have only these settings. Each has a pointer to its variable: a *string,
// *bool, *int (a whole number), *float64, *List or *Object. A setting that the configuration does not have stays
// unchanged. (Package encoding/json would enlarge a component from 2.5 MB to 4.4 MB.)
func ReadConfig(config string, settings map[string]any) error {
	r := reader(config)
	value, ok := r.value(0)
	if r.space(); !ok || r != "" {
		return errMalformed
	}
	object, ok := value.(Object)
	if !ok {
		return errors.New("the configuration is not a JSON object")
	}
	return object.read("", settings)
}

// ReadObject reads an item of a List in the same way. `where` is its place in the configuration, such as "routes".
func ReadObject(item any, where string, settings map[string]any) error {
	object, ok := item.(Object)
	if !ok {
		return errors.New(where + ": must be an object")
	}
	return object.read(where+".", settings)
}

func (o Object) read(place string, settings map[string]any) error {
	for name, value := range o {
		setting, known := settings[name]
		if !known {
			return errors.New(place + name + ": there is no such setting")
		}
		if kind := store(setting, value); kind != "" {
			return errors.New(place + name + ": must be " + kind)
		}
	}
	return nil
}

// store stores a value in the variable of its setting. Returns what it must be, if it is something else.
func store(setting, value any) string {
	var ok bool
	switch setting := setting.(type) {
	case *string:
		if *setting, ok = value.(string); !ok {
			return "a string"
		}
	case *bool:
		if *setting, ok = value.(bool); !ok {
			return "true or false"
		}
	case *float64:
		if *setting, ok = value.(float64); !ok {
			return "a number"
		}
	case *int:
		number, ok := value.(float64)
		if !ok || number <= -1<<53 || number >= 1<<53 || number != float64(int(number)) {
			return "a whole number"
		}
		*setting = int(number)
	case *List:
		if *setting, ok = value.(List); !ok {
			return "a list"
		}
	case *Object:
		if *setting, ok = value.(Object); !ok {
			return "an object"
		}
	default:
		panic("a setting is a *string, *bool, *int, *float64, *List or *Object")
	}
	return ""
}

// reader is the part of the configuration that is still to be read.
type reader string

func (r *reader) space() {
	for *r != "" && ((*r)[0] == ' ' || (*r)[0] == '\t' || (*r)[0] == '\r' || (*r)[0] == '\n') {
		*r = (*r)[1:]
	}
}

func (r *reader) next(c byte) bool {
	r.space()
	if *r == "" || (*r)[0] != c {
		return false
	}
	*r = (*r)[1:]
	return true
}

func (r *reader) word(word string) bool {
	if len(*r) < len(word) || string((*r)[:len(word)]) != word {
		return false
	}
	*r = (*r)[len(word):]
	return true
}

// value reads a value, at most 64 levels deep.
func (r *reader) value(depth int) (value any, ok bool) {
	if r.space(); depth > 64 || *r == "" {
		return nil, false
	}
	switch (*r)[0] {
	case '{':
		return r.object(depth)
	case '[':
		return r.list(depth)
	case '"':
		return r.text()
	case 'n':
		return nil, r.word("null")
	case 't':
		return true, r.word("true")
	case 'f':
		return false, r.word("false")
	}
	return r.number()
}

func (r *reader) object(depth int) (Object, bool) {
	object := Object{}
	r.next('{')
	if r.next('}') {
		return object, true
	}
	for {
		name, ok := r.text()
		if !ok || !r.next(':') {
			return nil, false
		}
		if object[name], ok = r.value(depth + 1); !ok {
			return nil, false
		}
		if !r.next(',') {
			return object, r.next('}')
		}
	}
}

func (r *reader) list(depth int) (List, bool) {
	list := List{}
	r.next('[')
	if r.next(']') {
		return list, true
	}
	for {
		item, ok := r.value(depth + 1)
		if !ok {
			return nil, false
		}
		list = append(list, item)
		if !r.next(',') {
			return list, r.next(']')
		}
	}
}

// number reads a number. (strconv.ParseFloat accepts more than JSON does.)
func (r *reader) number() (float64, bool) {
	all := *r
	digits := func() bool {
		first := *r
		for *r != "" && '0' <= (*r)[0] && (*r)[0] <= '9' {
			*r = (*r)[1:]
		}
		return len(*r) < len(first)
	}
	r.word("-")
	whole := *r
	if !digits() || (whole[0] == '0' && len(whole)-len(*r) > 1) {
		return 0, false
	}
	if r.word(".") && !digits() {
		return 0, false
	}
	if r.word("e") || r.word("E") {
		if !r.word("-") {
			r.word("+")
		}
		if !digits() {
			return 0, false
		}
	}
	number, err := strconv.ParseFloat(string(all[:len(all)-len(*r)]), 64)
	return number, err == nil
}

func (r *reader) text() (string, bool) {
	if !r.next('"') {
		return "", false
	}
	var text []byte
	for *r != "" {
		c := (*r)[0]
		*r = (*r)[1:]
		switch {
		case c == '"':
			return string(text), true
		case c < ' ':
			return "", false
		case c == '\\':
			char, ok := r.escaped()
			if !ok {
				return "", false
			}
			text = utf8.AppendRune(text, char)
		default:
			text = append(text, c)
		}
	}
	return "", false
}

// escaped reads an escape sequence, after its backslash.
func (r *reader) escaped() (rune, bool) {
	if *r == "" {
		return 0, false
	}
	c := (*r)[0]
	*r = (*r)[1:]
	switch c {
	case '"', '\\', '/':
		return rune(c), true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	case 'u':
		unit, ok := r.unit()
		if !ok || !utf16.IsSurrogate(unit) {
			return unit, ok
		}
		if len(*r) < 2 || (*r)[:2] != "\\u" {
			return 0, false
		}
		*r = (*r)[2:]
		low, ok := r.unit()
		char := utf16.DecodeRune(unit, low)
		return char, ok && char != utf8.RuneError
	}
	return 0, false
}

// unit reads four hexadecimal digits.
func (r *reader) unit() (rune, bool) {
	if len(*r) < 4 {
		return 0, false
	}
	var unit rune
	for _, c := range []byte((*r)[:4]) {
		switch {
		case '0' <= c && c <= '9':
			unit = unit<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			unit = unit<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	*r = (*r)[4:]
	return unit, true
}
