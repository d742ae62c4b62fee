package mysql

import (
	"fmt"
	"hash/fnv"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// dialect is MySQL, and MariaDB, to the SQL engine.
type dialect struct {
	target   *url.URL      // as it was when the destination was opened
	config   *mysql.Config // the same; each connection has its own
	where    string        // the server's address, for messages
	timeout  time.Duration
	timeouts sqlsink.Timeouts
	env      sink.Env

	// noInfile is set where LOAD DATA LOCAL INFILE is not to be used, or turns
	// out not to be allowed.
	noInfile atomic.Bool
	// noTemp is set once the user turns out not to be allowed temporary tables.
	noTemp atomic.Bool
	// told is set once what differs from the best set-up was logged.
	told atomic.Bool
	// server is what the newest session found out about the other side.
	server atomic.Pointer[server]
}

// server is what differs between the servers that speak MySQL's protocol.
type server struct {
	maria bool
	// exact is the collation that tells any two texts apart.
	exact string
	// foldsTables says that names of tables are compared without regard to case.
	foldsTables bool
}

// Names have at most maxName characters, and a table's name, with whatever is not
// an ASCII letter, digit or underscore written in five bytes, must do for a file's.
const (
	maxName     = 64
	maxFileName = 200
)

// Name changes a name that MySQL can not have: one that is too long, ends in a
// blank, or has characters beyond the Basic Multilingual Plane. A hash of all of
// it keeps two such names two.
func (d *dialect) Name(name string) string {
	fits := func(r rune) rune {
		if r == 0 || r > 0xFFFF {
			return '\uFFFD'
		}
		return r
	}
	valid := strings.TrimRight(strings.Map(fits, strings.ToValidUTF8(name, value.Replacement)), " \t\n\r")
	if valid == name && keeps(name, maxName, maxFileName) == len(name) && name != "" {
		return name
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	return fmt.Sprintf("%s_%016x", valid[:keeps(valid, maxName-17, maxFileName-17)], h.Sum64())
}

// keeps returns how many bytes of name are within the bounds of a name.
func keeps(name string, characters, file int) int {
	for i, r := range name {
		characters--
		file--
		if r != '_' && (r < '0' || r > '9' && r < 'A' || r > 'Z' && r < 'a' || r > 'z') {
			file -= 4
		}
		if characters < 0 || file < 0 {
			return i
		}
	}
	return len(name)
}

// FoldsCase is true: names of columns are compared without regard to case.
func (d *dialect) FoldsCase() bool { return true }

// quote quotes an identifier.
func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// literal returns text as a string constant.
func literal(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(text) + "'"
}

// utf8mb4 is said of every text column, as a table of others may default to less.
const utf8mb4 = " CHARACTER SET utf8mb4"

// enumType is the type of enumerated columns, which people index.
const enumType = "VARCHAR(255)" + utf8mb4

// textType is the type of all other text.
const textType = "LONGTEXT" + utf8mb4

// define returns the type of a new column. MariaDB's JSON is text with a check
// that refuses what is nested more than 32 deep; what eds writes is valid anyway.
func (s *server) define(t schema.Type) string {
	switch t {
	case schema.DateTime:
		return "DATETIME(6)"
	case schema.Integer:
		return "BIGINT"
	case schema.Number:
		return "DOUBLE"
	case schema.Boolean:
		return "TINYINT(1)"
	case schema.Object, schema.Array:
		if s.maria {
			return textType + " COLLATE utf8mb4_bin"
		}
		return "JSON"
	case schema.Enum:
		return enumType
	default:
		return textType
	}
}

// definition defines a new column, of a key with so many text columns.
func (s *server) definition(c sqlsink.NewColumn, texts int) string {
	switch {
	case c.Key && keyText(c.Type):
		return quote(c.Name) + " " + s.shortText(keyLength(texts)) + " NOT NULL"
	case c.Key:
		return quote(c.Name) + " " + s.define(c.Type) + " NOT NULL"
	case c.Meta == sqlsink.MetaVersion || c.Meta == sqlsink.MetaOp:
		return quote(c.Name) + " " + s.shortText(keyLength(1))
	}
	return quote(c.Name) + " " + s.define(c.Type)
}

// shortText returns the type of texts that can be indexed, of at most so many characters.
func (s *server) shortText(length int) string {
	return fmt.Sprintf("VARCHAR(%d)%s COLLATE %s", length, utf8mb4, s.exact)
}

// keyText reports whether a key holds values of the type as short texts.
func keyText(t schema.Type) bool { return t == schema.String || t == schema.Enum || t.IsJSON() }

// keyLength returns how many characters each of so many columns of an index of
// InnoDB can have, beside a few integers, of at most 255.
func keyLength(texts int) int { return min(255, (maxIndex-12*8)/4/max(1, texts)) }

// maxIndex is how many bytes an index entry of InnoDB can have.
const maxIndex = 3072

// maxShort is how many bytes the short texts of a row may take together: a row
// has at most 65,535, in which long texts count little.
const maxShort = 48 << 10

// DDL carries out a migration step, on the server that the newest session met.
func (d *dialect) DDL(step sqlsink.Step) []string {
	s := d.server.Load()
	table := quote(step.Table)
	switch step.Kind {
	case sqlsink.CreateTable:
		return []string{s.createTable(step)}
	case sqlsink.AddColumn:
		return []string{"ALTER TABLE " + table + " ADD COLUMN " + s.definition(step.Columns[0], 1)}
	case sqlsink.WidenColumn:
		return s.widen(step)
	default:
		definition := step.Real.Native.(*attribute).definition
		relaxed, ok := replaceWords(definition, " NOT NULL", " NULL")
		if !ok {
			return nil
		}
		return []string{"ALTER TABLE " + table + " MODIFY COLUMN " + quote(step.Real.Name) + " " + relaxed}
	}
}

func (s *server) createTable(step sqlsink.Step) string {
	var lines, key []string
	texts, short := 0, 0
	for _, c := range step.Columns[:step.Keys] {
		if keyText(c.Type) {
			texts++
		}
		key = append(key, quote(c.Name))
	}
	for _, c := range step.Columns {
		if c.Type == schema.Enum && !c.Key {
			if short += 1022; short > maxShort {
				c.Type = schema.String
			}
		}
		lines = append(lines, "\t"+s.definition(c, texts))
	}
	lines = append(lines, "\tPRIMARY KEY ("+strings.Join(key, ", ")+")")
	return "CREATE TABLE IF NOT EXISTS " + quote(step.Table) + " (\n" + strings.Join(lines, ",\n") + "\n) ENGINE=InnoDB DEFAULT" + utf8mb4 + " ROW_FORMAT=DYNAMIC"
}

// widen changes the column's type and keeps what else its definition says, as
// far as the new type can have it. Integers become decimals, which hold them
// exactly, as a floating-point type would not. A key stays one.
func (s *server) widen(step sqlsink.Step) []string {
	a := step.Real.Native.(*attribute)
	table, name := quote(step.Table), quote(step.Real.Name)
	rest, ok := strings.CutPrefix(a.definition, step.Real.Type)
	if !ok {
		return nil
	}
	if step.Nullable {
		rest, _ = replaceWords(rest, " NOT NULL", " NULL")
	}
	modify := "ALTER TABLE " + table + " MODIFY COLUMN " + name + " "
	switch {
	case a.key && (a.length >= a.most || step.To != schema.String):
		return nil
	case a.key:
		return []string{modify + fmt.Sprintf("VARCHAR(%d)", a.most) + rest}
	case step.To == schema.Integer:
		return []string{modify + "BIGINT" + rest}
	case step.To == schema.Number && step.Real.Narrow:
		return []string{modify + "DOUBLE" + rest}
	case step.To == schema.Number:
		return []string{modify + fmt.Sprintf("DECIMAL(%d,%d)", wideDigits, wideScale) + rest}
	}
	text := textType
	if !step.Nullable {
		text += " NOT NULL"
	}
	if at, ok := findWords(rest, " COMMENT '"); ok {
		text += rest[at:]
	}
	statements := []string{modify + text}
	// The server's own text of a value is not always the source's.
	switch a.kind {
	case kindDecimal:
		if a.scale > 0 {
			statements = append(statements, fmt.Sprintf("UPDATE %s SET %s = TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM %s)) WHERE %s LIKE '%%.%%'", table, name, name, name))
		}
	case kindDateTime, kindTimestamp:
		statements = append(statements, fmt.Sprintf("UPDATE %s SET %s = CONCAT(REPLACE(%s, ' ', 'T'), 'Z') WHERE %s LIKE '____-__-__ __:__:__%%'", table, name, name, name))
	}
	return statements
}

// Digits of the decimal type that integers and other numbers share: the most
// that there are.
const (
	wideDigits = 65
	wideScale  = 30
)

// replaceWords replaces the first occurrence of old in a column's definition
// that is not within quotes.
func replaceWords(definition, old, with string) (string, bool) {
	at, ok := findWords(definition, old)
	if !ok {
		return definition, false
	}
	return definition[:at] + with + definition[at+len(old):], true
}

// findWords returns where words stand in a definition that are not within quotes.
func findWords(definition, words string) (int, bool) {
	var quoted byte
	for i := 0; i+len(words) <= len(definition); i++ {
		switch c := definition[i]; {
		case quoted != 0:
			if c == quoted {
				quoted = 0
			} else if c == '\\' && quoted == '\'' {
				i++
			}
		case definition[i:i+len(words)] == words:
			return i, true
		case c == '\'' || c == '"' || c == '`':
			quoted = c
		}
	}
	return 0, false
}
