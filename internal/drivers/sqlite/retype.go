package sqlite

import (
	"errors"
	"fmt"
	"strings"

	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/value"
)

var errDefinition = errors.New("eds does not understand the table's definition")

// retype returns the statement sql with another declared type for one column. The parameter sql
// must be a CREATE TABLE statement from a schema. The parameter to is the new type. In a separate
// database in memory, retype checks that both statements create the same columns, except for the
// type of that column.
func retype(sql, column, to string) (string, error) {
	from, end, err := typeOf(sql, column)
	if err != nil {
		return "", err
	}
	rest := sql[end:]
	if rest != "" && inName(rest[0]) {
		rest = " " + rest
	}
	changed := sql[:from] + " " + to + rest
	before, err := columnsOf(sql)
	if err != nil {
		return "", err
	}
	after, err := columnsOf(changed)
	if err != nil {
		return "", err
	}
	for name, c := range before {
		if sameName(name, column) {
			c.declared = strings.ToUpper(to)
		}
		if after[name] != c {
			return "", errDefinition
		}
	}
	if len(before) != len(after) {
		return "", errDefinition
	}
	return changed, nil
}

// columnDefinition describes a column as SQLite reports it for a table's definition.
type columnDefinition struct{ declared, required, fallback, key, hidden string }

// columnsOf returns the columns, by name, of the table that the statement sql creates.
func columnsOf(sql string) (map[string]columnDefinition, error) {
	db, err := capi.Open(":memory:", capi.Options{Create: true})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	sql, err = renamed(sql, "t")
	if err != nil {
		return nil, err
	}
	if err := db.Exec(sql); err != nil {
		return nil, errDefinition
	}
	st, err := db.Prepare(`SELECT name, upper(type), "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo('t')`)
	if err != nil {
		return nil, err
	}
	defer st.Finalize()
	columns := make(map[string]columnDefinition)
	for {
		more, err := st.Step()
		if err != nil || !more {
			return columns, err
		}
		columns[st.String(0)] = columnDefinition{st.String(1), st.String(2), st.String(3), st.String(4), st.String(5)}
	}
}

// renamed returns the statement sql with another table name. The parameter sql must be
// a CREATE TABLE statement from a schema. There, SQLite writes the words CREATE TABLE in upper case
// with one blank between them.
func renamed(sql, name string) (string, error) {
	const begin = "CREATE TABLE "
	if !strings.HasPrefix(sql, begin) {
		return "", errDefinition
	}
	l := lexer{text: sql, pos: len(begin)}
	if l.next() == "" {
		return "", errDefinition
	}
	return begin + quote(name) + sql[l.pos:], nil
}

// typeOf returns the start and end of a column's declared type in a CREATE TABLE statement. The
// type starts after the column's name and ends before the column's first constraint.
func typeOf(sql, column string) (from, end int, err error) {
	l := lexer{text: sql}
	for l.next() != "(" {
		if l.token == "" {
			return 0, 0, errDefinition
		}
	}
	for {
		if name := identifier(l.next()); l.token == "" {
			return 0, 0, fmt.Errorf("column %q is not in the table's definition", column)
		} else if sameName(name, column) && !tableConstraint(l.token) {
			from = l.pos
			for end = l.pos; !constraint(l.next()); end = l.pos {
				if l.token == "(" {
					l.group()
				}
			}
			return from, end, nil
		}
		for l.token != "," {
			switch l.token {
			case "(":
				l.group()
			case "", ")":
				return 0, 0, fmt.Errorf("column %q is not in the table's definition", column)
			}
			l.next()
		}
	}
}

// constraint reports whether a token cannot be part of a column's type, because it starts a
// constraint or ends the column's definition.
func constraint(token string) bool {
	switch strings.ToUpper(token) {
	case "", ",", ")", "CONSTRAINT", "PRIMARY", "NOT", "NULL", "UNIQUE", "CHECK", "DEFAULT", "COLLATE", "REFERENCES", "GENERATED", "AS":
		return true
	}
	return false
}

// tableConstraint reports whether a token starts a table constraint. The name of a column cannot be
// such a token, unless it is in quotes.
func tableConstraint(token string) bool {
	switch strings.ToUpper(token) {
	case "CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN":
		return true
	}
	return false
}

// identifier returns the name that a token contains. For a quoted name, it removes the quotes. It
// returns any other token unchanged.
func identifier(token string) string {
	if len(token) < 2 {
		return token
	}
	inner := token[1 : len(token)-1]
	switch q := token[0]; q {
	case '"', '`', '\'':
		return strings.ReplaceAll(inner, string([]byte{q, q}), string(q))
	case '[':
		return inner
	}
	return token
}

// lexer splits SQL into tokens. A token is a quoted name or string with its quotes, a word, a
// number, or any other single character. The lexer skips white space and comments.
type lexer struct {
	text  string
	pos   int // the end of the current token in text
	token string
}

// The method named next moves to the next token and returns it, or "" at the end of the text.
func (l *lexer) next() string {
	l.skip()
	start := l.pos
	if start == len(l.text) {
		l.token = ""
		return ""
	}
	switch c := l.text[start]; {
	case c == '"' || c == '`' || c == '\'':
		l.quoted(c)
	case c == '[':
		if n := strings.IndexByte(l.text[start:], ']'); n > 0 {
			l.pos += n + 1
		} else {
			l.pos = len(l.text)
		}
	case inName(c):
		for l.pos < len(l.text) && inName(l.text[l.pos]) {
			l.pos++
		}
	default:
		l.pos++
	}
	l.token = l.text[start:l.pos]
	return l.token
}

// quoted moves to the end of a quoted token, whose quote character is c. A doubled quote
// does not end the token.
func (l *lexer) quoted(c byte) {
	for l.pos++; l.pos < len(l.text); l.pos++ {
		if l.text[l.pos] != c {
			continue
		}
		if l.pos++; l.pos == len(l.text) || l.text[l.pos] != c {
			return
		}
	}
}

// skip moves past white space and comments.
func (l *lexer) skip() {
	for l.pos < len(l.text) {
		rest := l.text[l.pos:]
		switch {
		case strings.IndexByte(" \t\n\f\r", rest[0]) >= 0:
			l.pos++
		case strings.HasPrefix(rest, "--"):
			l.pos += lengthThrough(rest, "\n")
		case strings.HasPrefix(rest, "/*"):
			l.pos += 2 + lengthThrough(rest[2:], "*/")
		default:
			return
		}
	}
}

// lengthThrough returns the length of text up to and including the first mark. If text has no mark,
// it returns the length of text.
func lengthThrough(text, mark string) int {
	if n := strings.Index(text, mark); n >= 0 {
		return n + len(mark)
	}
	return len(text)
}

// group moves to the closing parenthesis that belongs to the opening parenthesis just read.
func (l *lexer) group() {
	for depth := 1; depth > 0; {
		switch l.next() {
		case "":
			return
		case "(":
			depth++
		case ")":
			depth--
		}
	}
}

// inName reports whether c can be part of an unquoted name or a number. All bytes outside ASCII
// can.
func inName(c byte) bool {
	return c == '_' || c == '$' || c >= 0x80 || c-'0' <= 9 || c|0x20 >= 'a' && c|0x20 <= 'z'
}

// shortest implements the SQL function eds_shortest. Its argument is the text of a number with up
// to seventeen digits. It returns the shortest text that parses to the same REAL.
func shortest(args []string) (string, error) {
	f, _, err := value.ParseFloat(nil, []byte(args[0]), 64)
	if err != nil {
		return "", err
	}
	return string(appendFloat(nil, f)), nil
}
