package schema

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// reserved is the prefix of the names of eds's own tables and columns.
const reserved = "_eds_"

// ErrReserved means that a table or column of the source has a name that is reserved for eds.
var ErrReserved = errors.New("names that begin with _eds_ are reserved for eds")

// Reserved reports whether a name is reserved for eds. It ignores case, as some databases do.
func Reserved(name string) bool {
	rest := name
	for range len(reserved) {
		_, size := utf8.DecodeRuneInString(rest)
		rest = rest[size:]
	}
	return strings.EqualFold(name[:len(name)-len(rest)], reserved)
}

// CheckTable returns an error if the name is reserved for eds. The error is poison.
func CheckTable(name string) error {
	if Reserved(name) {
		return fault.Mark(fault.Poison, fmt.Errorf("table %.80q: %w", name, ErrReserved))
	}
	return nil
}

// ErrName means that a table's name cannot be part of a stream subject.
var ErrName = fmt.Errorf("in the stream, names of tables have 1 to %d bytes of UTF-8, without white space, control characters, '.', "+
	"'*' and '>'", maxStreamName)

// maxStreamName is the maximum length in bytes of a table's name in the stream.
const maxStreamName = 255

// CheckStreamTable is like CheckTable, but for tables in the stream. It also returns an error,
// which is poison, if the name cannot be one token of a subject.
func CheckStreamTable(name string) error {
	possible := name != "" && len(name) <= maxStreamName && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return r == '.' || r == '*' || r == '>' || unicode.IsSpace(r) || unicode.IsControl(r)
	})
	if !possible {
		return fault.Mark(fault.Poison, fmt.Errorf("table %.80q: %w", name, ErrName))
	}
	return CheckTable(name)
}

// Check returns an error if the table or one of its columns has a reserved name. The error is
// poison.
func (t *Table) Check() error {
	if err := CheckTable(t.Name); err != nil {
		return err
	}
	for _, c := range t.Columns {
		if Reserved(c.Name) {
			return fault.Mark(fault.Poison, fmt.Errorf("column %.80q of table %q: %w", c.Name, t.Name, ErrReserved))
		}
	}
	return nil
}
