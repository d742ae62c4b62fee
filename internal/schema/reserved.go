package schema

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// reserved begins the names of eds's own tables and columns.
const reserved = "_eds_"

// ErrReserved says that a table or column of the source has a name that eds keeps for
// its own.
var ErrReserved = errors.New("names that begin with _eds_ are reserved for eds")

// Reserved reports whether a name is eds's own. Case does not matter, as it does not to
// some databases.
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
	switch {
	case Reserved(name):
		return fault.Mark(fault.Poison, fmt.Errorf("table %.80q: %w", name, ErrReserved))
	case !nameable(name):
		return fault.Mark(fault.Poison, fmt.Errorf("table %.80q: %w", name, ErrName))
	}
	return nil
}

// ErrName says that no table of the source has such a name.
var ErrName = fmt.Errorf("names of tables have 1 to %d bytes of UTF-8, without white space, control characters, '.', '*' and '>'", maxTableName)

// maxTableName bounds the name of a table, in bytes.
const maxTableName = 255

// nameable reports whether a subject of the stream can have the name as one token, so that
// the changes of the table can be asked for.
func nameable(name string) bool {
	return name != "" && len(name) <= maxTableName && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return r == '.' || r == '*' || r == '>' || unicode.IsSpace(r) || unicode.IsControl(r)
	})
}

// Check returns an error, which is poison, if the table or a column of it has a name
// that it cannot have.
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
