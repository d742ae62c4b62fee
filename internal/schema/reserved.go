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

// ErrReserved reports that a table or column of the source has one of eds's own names.
var ErrReserved = errors.New("names that begin with _eds_ are reserved for eds")

// Reserved reports whether a name is one of eds's own. It ignores case, like some databases.
func Reserved(name string) bool {
	rest := name
	for range len(reserved) {
		_, size := utf8.DecodeRuneInString(rest)
		rest = rest[size:]
	}
	return strings.EqualFold(name[:len(name)-len(rest)], reserved)
}

// CheckTable returns an error, which is poison, if a table cannot have the name.
func CheckTable(name string) error {
	if Reserved(name) {
		return fault.Mark(fault.Poison, fmt.Errorf("table %.80q: %w", name, ErrReserved))
	}
	return nil
}

// ErrName reports that no subject of the stream can contain the name of a table.
var ErrName = fmt.Errorf("in the stream, names of tables have 1 to %d bytes of UTF-8, without white space, control characters, '.', "+
	"'*' and '>'", maxStreamName)

// maxStreamName bounds the name of a table in the stream, in bytes.
const maxStreamName = 255

// CheckStreamTable is CheckTable for a change in the stream, whose subject contains the table's
// name as one token.
func CheckStreamTable(name string) error {
	possible := name != "" && len(name) <= maxStreamName && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return r == '.' || r == '*' || r == '>' || unicode.IsSpace(r) || unicode.IsControl(r)
	})
	if !possible {
		return fault.Mark(fault.Poison, fmt.Errorf("table %.80q: %w", name, ErrName))
	}
	return CheckTable(name)
}

// Check returns an error, which is poison, if the table or one of its columns has a name that it
// cannot have.
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
