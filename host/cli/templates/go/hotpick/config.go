package hotpick

import (
	"errors"
	"unicode/utf16"
	"unicode/utf8"
)

var errMalformed = errors.New("the configuration is not a JSON object")

// ReadConfig reads a configuration, which may have only these settings, all of them strings. A setting that the
// configuration does not have stays unchanged. (Package encoding/json would enlarge a component from 2.5 MB to 4.4 MB.)
func ReadConfig(config string, settings map[string]*string) error {
	r := reader(config)
	if !r.next('{') {
		return errMalformed
	}
	if !r.next('}') {
		for {
			name, ok := r.text()
			if !ok || !r.next(':') {
				return errMalformed
			}
			setting, known := settings[name]
			if !known {
				return errors.New(name + ": there is no such setting")
			}
			if *setting, ok = r.text(); !ok {
				return errors.New(name + ": must be a string")
			}
			if !r.next(',') {
				break
			}
		}
		if !r.next('}') {
			return errMalformed
		}
	}
	if r.space(); r != "" {
		return errMalformed
	}
	return nil
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
