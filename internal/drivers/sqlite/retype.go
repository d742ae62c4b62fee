package sqlite

import (
	"errors"
	"fmt"
	"strings"

	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/value"
)

var errDefinition = errors.New("eds does not understand the table's definition")

// retype returns sql, a CREATE TABLE statement from a schema, with another declared type for a
// column. It checks the effect of the change in a separate database in memory.
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

// columnDefinition is the effect of a table's definition on a column.
type columnDefinition struct{ declared, required, fallback, key, hidden string }

// columnsOf returns the columns of the table that the statement creates.
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

// renamed returns sql, a CREATE TABLE statement from a schema, for a table with another name. In a
// schema these words are in upper case with one blank between them.
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

// typeOf returns the bounds of a column's declared type in a CREATE TABLE statement: from the end
// of the column's name to its constraints.
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

// constraint reports whether a token ends the type of a column.
func constraint(token string) bool {
	switch strings.ToUpper(token) {
	case "", ",", ")", "CONSTRAINT", "PRIMARY", "NOT", "NULL", "UNIQUE", "CHECK", "DEFAULT", "COLLATE", "REFERENCES", "GENERATED", "AS":
		return true
	}
	return false
}

// tableConstraint reports whether a token begins a constraint of the table. A column with such a
// name is in quotes.
func tableConstraint(token string) bool {
	switch strings.ToUpper(token) {
	case "CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN":
		return true
	}
	return false
}

// identifier returns the name of a token, without quotes.
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

// lexer splits SQL into tokens: names and strings with their quotes, words and numbers, and single other
// characters. It skips white space and comments.
type lexer struct {
	text  string
	pos   int // end of token
	token string
}

// next moves to the next token and returns it, "" at the end.
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

// quoted moves to the end of a text in quotes c. A doubled quote is part of the text.
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

// skip moves over white space and comments.
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

// lengthThrough returns the length of text up to the end of mark.
func lengthThrough(text, mark string) int {
	if n := strings.Index(text, mark); n >= 0 {
		return n + len(mark)
	}
	return len(text)
}

// group moves to the end of the group whose opening parenthesis was just read.
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

// inName reports whether c is part of a name or number. All bytes outside ASCII are.
func inName(c byte) bool {
	return c == '_' || c == '$' || c >= 0x80 || c-'0' <= 9 || c|0x20 >= 'a' && c|0x20 <= 'z'
}

// shortest returns the shortest exact form of a number that printf has written with all its digits.
func shortest(args []string) (string, error) {
	f, _, err := value.ParseFloat(nil, []byte(args[0]), 64)
	if err != nil {
		return "", err
	}
	return string(appendFloat(nil, f)), nil
}
