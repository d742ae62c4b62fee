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

// dialect implements sqlsink.Dialect for MySQL and MariaDB.
type dialect struct {
	target   *url.URL      // the URL at the time when the destination was opened
	config   *mysql.Config // parsed from target; each connection parses its own URL again
	where    string        // the server's address, for messages
	timeout  time.Duration // the limit for opening a connection
	timeouts sqlsink.Timeouts
	env      sink.Env

	// noInfile is set if the URL or the server disallows LOAD DATA LOCAL INFILE.
	noInfile atomic.Bool
	// noTemp is set after the server has refused to create a temporary table for the user.
	noTemp atomic.Bool
	// setupLogged is set after the warnings about the server's settings have been logged.
	setupLogged atomic.Bool
	// server describes the server that the newest session is connected to.
	server atomic.Pointer[flavour]
}

// flavour has the properties that differ between servers that speak MySQL's protocol.
type flavour struct {
	maria bool
	// The field exact is the collation for keys; see exactCollation.
	exact string
	// foldsTables reports whether the server ignores the case of table names.
	foldsTables bool
}

// A name has at most maxName characters. The server also uses a table's name as a file name of at
// most maxFileName bytes, in which each character other than an ASCII letter, digit or underscore
// takes five bytes.
const (
	maxName     = 64
	maxFileName = 200
)

// Name returns name if MySQL allows it. MySQL does not allow a name that is empty or too long, ends
// in a blank, or contains NUL or a character beyond the Basic Multilingual Plane. Name changes such
// a name and appends a hash of the whole name, so that distinct names stay distinct.
func (d *dialect) Name(name string) string {
	fits := func(r rune) rune {
		if r == 0 || r > 0xFFFF {
			return '\uFFFD'
		}
		return r
	}
	valid := strings.TrimRight(strings.Map(fits, strings.ToValidUTF8(name, value.Replacement)), " \t\n\r")
	if valid == name && keptBytes(name, maxName, maxFileName) == len(name) && name != "" {
		return name
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	return fmt.Sprintf("%s_%016x", valid[:keptBytes(valid, maxName-17, maxFileName-17)], h.Sum64())
}

// keptBytes returns the length, in bytes, of the longest prefix of name that is within two limits.
// The parameter characters limits the number of characters, and the parameter file limits the
// number of bytes of the file name.
func keptBytes(name string, characters, file int) int {
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

// FoldsCase returns true, because MySQL ignores the case of column names.
func (d *dialect) FoldsCase() bool { return true }

// quote returns name as a quoted identifier.
func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// literal returns text as a string constant.
func literal(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(text) + "'"
}

// utf8mb4 is part of the type of every text column, because the default character set of the
// database may lack characters.
const utf8mb4 = " CHARACTER SET utf8mb4"

// enumType is the type of enumerated columns. It is short, so that users can index the columns.
const enumType = "VARCHAR(255)" + utf8mb4

// textType is the type of all other text columns.
const textType = "LONGTEXT" + utf8mb4

// typeOf returns the MySQL type of a new column. For JSON on MariaDB, it returns a text type:
// MariaDB's type JSON is text with a check that refuses more than 32 levels of nesting. The check
// is not needed, because eds writes only valid JSON.
func (s *flavour) typeOf(t schema.Type) string {
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

// definition returns the definition of a new column. The parameter texts is the number of text
// columns in the table's key.
func (s *flavour) definition(c sqlsink.NewColumn, texts int) string {
	switch {
	case c.Key && keyText(c.Type):
		return quote(c.Name) + " " + s.shortText(keyLength(texts)) + " NOT NULL"
	case c.Key:
		return quote(c.Name) + " " + s.typeOf(c.Type) + " NOT NULL"
	case c.Meta == sqlsink.MetaVersion || c.Meta == sqlsink.MetaOp:
		return quote(c.Name) + " " + s.shortText(keyLength(1))
	}
	return quote(c.Name) + " " + s.typeOf(c.Type)
}

// shortText returns a type that can be indexed, for texts whose length, in characters, is at most
// the parameter length.
func (s *flavour) shortText(length int) string {
	return fmt.Sprintf("VARCHAR(%d)%s COLLATE %s", length, utf8mb4, s.exact)
}

// keyText reports whether a key column for values of type t has a type that shortText returns.
func keyText(t schema.Type) bool { return t == schema.String || t == schema.Enum || t.IsJSON() }

// keyLength returns the maximum length, in characters, of each text column of an InnoDB index that
// has the given number of text columns and a few integer columns. The result is at most 255.
func keyLength(texts int) int { return min(255, (maxIndex-12*8)/4/max(1, texts)) }

// maxIndex is the maximum size of an InnoDB index entry, in bytes.
const maxIndex = 3072

// maxShort is the maximum total size of the enumerated columns of a row, in bytes. MySQL limits a
// row to 65,535 bytes, to which long texts contribute only a few bytes each.
const maxShort = 48 << 10

// DDL returns the statements of a migration step, for the server that the newest session is
// connected to. It returns nil if the step is not possible.
func (d *dialect) DDL(step sqlsink.MigrationStep) []string {
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

func (s *flavour) createTable(step sqlsink.MigrationStep) string {
	var definitions, key []string
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
		definitions = append(definitions, "\t"+s.definition(c, texts))
	}
	definitions = append(definitions, "\tPRIMARY KEY ("+strings.Join(key, ", ")+")")
	return "CREATE TABLE IF NOT EXISTS " + quote(step.Table) + " (\n" + strings.Join(definitions, ",\n") +
		"\n) ENGINE=InnoDB DEFAULT" + utf8mb4 + " ROW_FORMAT=DYNAMIC"
}

// widen returns the statements that change the column's type. They keep the rest of the column's
// definition, as far as the new type allows. Integers become DECIMAL rather than a floating-point
// type, because DECIMAL is exact. A key column stays in the key. The result is nil if the column
// cannot be widened.
func (s *flavour) widen(step sqlsink.MigrationStep) []string {
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
	// The server may have converted values to text in another format than the source's.
	switch a.kind {
	case kindDecimal:
		if a.scale > 0 {
			statements = append(statements, fmt.Sprintf(
				"UPDATE %s SET %[2]s = TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM %[2]s)) WHERE %[2]s LIKE '%%.%%'", table, name))
		}
	case kindDateTime, kindTimestamp:
		statements = append(statements, fmt.Sprintf(
			"UPDATE %s SET %[2]s = CONCAT(REPLACE(%[2]s, ' ', 'T'), 'Z') WHERE %[2]s LIKE '____-__-__ __:__:__%%'", table, name))
	}
	return statements
}

// Digits and decimal places of the widest DECIMAL type. A column of integers is widened to this
// type if the source starts to contain other numbers.
const (
	wideDigits = 65
	wideScale  = 30
)

// replaceWords replaces the first occurrence of old outside quotes in a column's definition, and
// reports whether there was one.
func replaceWords(definition, old, with string) (string, bool) {
	at, ok := findWords(definition, old)
	if !ok {
		return definition, false
	}
	return definition[:at] + with + definition[at+len(old):], true
}

// findWords returns the index of the first occurrence of words outside quotes in a definition, and
// reports whether there is one.
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
