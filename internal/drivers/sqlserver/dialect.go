package sqlserver

import (
	"fmt"
	"hash/fnv"
	"net/url"
	"strings"
	"sync/atomic"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/microsoft/go-mssqldb/msdsn"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// dialect implements sqlsink.Dialect for SQL Server.
type dialect struct {
	target   *url.URL     // the URL at the time when the destination was opened
	config   msdsn.Config // parsed from dsn; each connection parses its own URL again
	dsn      string       // target in the form that go-mssqldb parses
	schema   string       // the URL's schema option, or "" for the user's default schema
	entra    bool         // sign in with Entra ID
	timeouts sqlsink.Timeouts
	env      sink.Env
	// namespace is the schema of every table. The newest session sets it.
	namespace atomic.Pointer[string]
}

// The constant binary is the collation of keys and names. It compares code points, including
// trailing blanks, so different texts are never equal.
const binary = "Latin1_General_100_BIN2"

// Name returns name if SQL Server can use it unchanged. If name is too long, Name cuts it and
// appends a hash of the whole name, so that distinct names stay distinct. Name also appends a hash
// to names that SQL Server may treat as equal to others: names with trailing blanks, and names with
// characters beyond the Basic Multilingual Plane, which older collations ignore. It puts _ before
// the name of a temporary table, which starts with #.
func (d *dialect) Name(name string) string {
	plain := strings.ToValidUTF8(strings.ReplaceAll(name, "\x00", value.Replacement), value.Replacement)
	units := len(utf16.Encode([]rune(plain)))
	basic := units == utf8.RuneCountInString(plain)
	if units <= maxName && basic && plain == name && !strings.HasPrefix(name, "#") && strings.TrimRight(name, " ") == name {
		return name
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	if strings.HasPrefix(plain, "#") {
		plain = "_" + plain
	}
	var cut strings.Builder
	units = 0
	for _, r := range plain {
		if units += utf16.RuneLen(r); units > maxName-17 {
			break
		}
		cut.WriteRune(r)
	}
	return fmt.Sprintf("%s_%016x", cut.String(), h.Sum64())
}

// maxName is the maximum length of a name, in UTF-16 units. Names of that length leave space for
// the names of the constraints of staging tables.
const maxName = 116

// FoldsCase returns true, because most databases ignore the case of names.
func (d *dialect) FoldsCase() bool { return true }

// quote returns name as a quoted identifier.
func quote(name string) string { return "[" + strings.ReplaceAll(name, "]", "]]") + "]" }

// literal returns text as a string constant.
func literal(text string) string { return "N'" + strings.ReplaceAll(text, "'", "''") + "'" }

// qualify returns the quoted name of a table, with its schema.
func (d *dialect) qualify(table string) string {
	return quote(*d.namespace.Load()) + "." + quote(table)
}

// declared returns the type of a new column.
func declared(c sqlsink.NewColumn) string {
	switch {
	case c.Type == schema.Integer:
		return "BIGINT"
	case c.Type == schema.Number:
		return "FLOAT(53)"
	case c.Type == schema.Boolean:
		return "BIT"
	case c.Type == schema.DateTime:
		return "DATETIMEOFFSET(6)"
	case c.Key || c.Type == schema.Enum || c.Meta != 0:
		return fmt.Sprintf("NVARCHAR(%d) COLLATE %s", keyLength, binary)
	default:
		return "NVARCHAR(MAX)"
	}
}

// keyLength is the maximum length of a text in a key, in UTF-16 units. SQL Server limits an index
// entry to 1,700 bytes.
const keyLength = 255

// clusteredBytes is the maximum size of the key of a clustered index, in bytes.
const clusteredBytes = 900

// DDL returns the statements of a migration step, in the schema of the newest session. It returns
// nil if the step is not possible.
func (d *dialect) DDL(step sqlsink.MigrationStep) []string {
	table := d.qualify(step.Table)
	switch step.Kind {
	case sqlsink.CreateTable:
		return []string{createTable(table, step)}
	case sqlsink.AddColumn:
		return []string{"ALTER TABLE " + table + " ADD " + quote(step.Columns[0].Name) + " " + declared(step.Columns[0]) + " NULL"}
	case sqlsink.WidenColumn:
		return widen(table, step)
	default:
		a := step.Real.Native.(*attribute)
		if a.indexed {
			return nil
		}
		return []string{"ALTER TABLE " + table + " ALTER COLUMN " + quote(step.Real.Name) + " " + a.declaration() + " NULL"}
	}
}

func createTable(table string, step sqlsink.MigrationStep) string {
	definitions := make([]string, 0, len(step.Columns)+1)
	var key []string
	size := 0
	for _, c := range step.Columns {
		null := " NULL"
		if c.Key {
			null = " NOT NULL"
			key = append(key, quote(c.Name))
			size += keySize(c.Type)
		}
		definitions = append(definitions, "\t"+quote(c.Name)+" "+declared(c)+null)
	}
	definitions = append(definitions, "\tPRIMARY KEY "+clustered(size)+" ("+strings.Join(key, ", ")+")")
	return "CREATE TABLE " + table + " (\n" + strings.Join(definitions, ",\n") + "\n)"
}

// keySize returns the maximum size of a key column for values of type t, in bytes.
func keySize(t schema.Type) int {
	switch t {
	case schema.Integer, schema.Number:
		return 8
	case schema.Boolean:
		return 1
	case schema.DateTime:
		return 10
	default:
		return 2 * keyLength
	}
}

func clustered(size int) string {
	if size > clusteredBytes {
		return "NONCLUSTERED"
	}
	return "CLUSTERED"
}

// exactNumber is the type to which integer columns are widened. It holds every BIGINT and numbers
// of up to 18 decimal places exactly, which a floating-point type does not.
const exactNumber = "DECIMAL(38, 18)"

// widen returns the statements that widen a column. It returns nil if an index or a constraint uses
// the column, because the server then refuses to change the type.
func widen(table string, step sqlsink.MigrationStep) []string {
	a := step.Real.Native.(*attribute)
	alter := func(to string) string {
		return "ALTER TABLE " + table + " ALTER COLUMN " + quote(step.Real.Name) + " " + to + " NULL"
	}
	switch {
	case a.indexed:
		return nil
	case step.To == schema.Integer:
		return []string{alter("BIGINT")}
	case step.To == schema.Number && step.Real.Holds == schema.Number:
		return []string{alter("FLOAT(53)")}
	case step.To == schema.Number:
		return []string{alter(exactNumber)}
	case step.To == schema.DateTime || step.To == schema.Boolean:
		return nil
	}
	text := a.asText(quote(step.Real.Name))
	if text == "" {
		return []string{alter("NVARCHAR(MAX)")}
	}
	// An implicit conversion would format values differently and round numbers.
	copied := quote((*dialect)(nil).Name("_eds_widen_" + step.Real.Name))
	name := quote(step.Real.Name)
	return []string{
		"ALTER TABLE " + table + " ADD " + copied + " NVARCHAR(MAX) NULL",
		"UPDATE " + table + " SET " + copied + " = " + text,
		alter(a.declaration()),
		"UPDATE " + table + " SET " + name + " = NULL",
		alter("NVARCHAR(MAX)"),
		"UPDATE " + table + " SET " + name + " = " + copied,
		"ALTER TABLE " + table + " DROP COLUMN " + copied,
	}
}

// asText returns an SQL expression that converts the values of the column to text, or "" if the
// server's implicit conversion is correct.
func (a *attribute) asText(name string) string {
	switch a.kind {
	case kindBit:
		return "CASE " + name + " WHEN 1 THEN N'true' WHEN 0 THEN N'false' END"
	case kindFloat, kindReal:
		// The result is the short form of the number if that form is exact, and otherwise the long
		// form.
		short := "FORMAT(" + name + ", N'R', N'en-US')"
		return "CASE WHEN TRY_CONVERT(FLOAT(53), " + short + ") = " + name + " THEN " + short +
			" ELSE CONVERT(NVARCHAR(MAX), " + name + ", 3) END"
	case kindDecimal:
		if a.scale == 0 {
			return ""
		}
		digits := "REPLACE(RTRIM(REPLACE(CONVERT(NVARCHAR(50), " + name + "), N'0', N' ')), N' ', N'0')"
		return "REPLACE(RTRIM(REPLACE(" + digits + ", N'.', N' ')), N' ', N'.')"
	case kindDateTimeOffset:
		return rfc3339("SWITCHOFFSET(" + name + ", N'+00:00')")
	case kindDateTime2, kindDateTime:
		return rfc3339(name)
	case kindDate:
		return "CONVERT(NVARCHAR(10), " + name + ", 23)"
	}
	return ""
}

// rfc3339 returns an SQL expression that formats an instant as RFC 3339 text. The parameter is an
// SQL expression for the instant, in UTC.
func rfc3339(instant string) string {
	return "CONVERT(NVARCHAR(10), CAST(" + instant + " AS DATE), 23) + N'T' + " +
		"CONVERT(NVARCHAR(15), CAST(" + instant + " AS TIME(6))) + N'Z'"
}
