package snowflake

import (
	"fmt"
	"hash/fnv"
	"net/url"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// dialect implements sqlsink.Dialect for Snowflake.
type dialect struct {
	target  *url.URL // the URL at the time when the destination was opened
	account account  // parsed from target; each session parses its own URL again
	env     sink.Env
	// The field actual maps the name of a table, as Name returns it, to the table's name in the
	// catalogue. It has no entry if the two names are equal.
	actual sync.Map
}

// maxName is the maximum length of a name in Snowflake, in characters.
const maxName = 255

// Name returns name if Snowflake can use it unchanged. Otherwise it cuts a name that is too long,
// replaces characters that a name cannot contain, and appends a hash of the original name, so that
// distinct names stay distinct.
func (d *dialect) Name(name string) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(name, value.Replacement))
	if clean == name && utf8.RuneCountInString(name) <= maxName {
		return name
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	if runes := []rune(clean); len(runes) > maxName-17 {
		clean = string(runes[:maxName-17])
	}
	return fmt.Sprintf("%s_%016x", clean, h.Sum64())
}

// FoldsCase returns true, although quoted names keep their case. Users select columns without
// quotes, and other tools create columns in upper case, so two names that differ only in case
// should be one column.
func (d *dialect) FoldsCase() bool { return true }

// quote returns name as a quoted identifier.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// literal returns text as a string constant.
func literal(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", "''").Replace(text) + "'"
}

// quoted returns name as a quoted identifier, or "" if name is empty.
func quoted(name string) string {
	if name == "" {
		return ""
	}
	return quote(name)
}

// table returns the quoted name of the real table. The parameter name is the table's name as Name
// returns it.
func (d *dialect) table(name string) string {
	if actual, ok := d.actual.Load(name); ok {
		return quote(actual.(string))
	}
	return quote(name)
}

// types maps schema types to the Snowflake types of new columns.
var types = map[schema.Type]string{
	schema.String: "STRING", schema.Enum: "STRING", schema.DateTime: "TIMESTAMP_TZ(9)", schema.Integer: "NUMBER(38,0)",
	schema.Number: "FLOAT", schema.Boolean: "BOOLEAN", schema.Object: "VARIANT", schema.Array: "VARIANT",
}

// DDL returns the statements of a migration step. Snowflake commits each statement separately. DDL
// returns nil if the step is not possible.
func (d *dialect) DDL(step sqlsink.MigrationStep) []string {
	table := d.table(step.Table)
	switch step.Kind {
	case sqlsink.CreateTable:
		var definitions, key []string
		for _, c := range step.Columns {
			definitions = append(definitions, "\t"+definition(c))
			if c.Key {
				key = append(key, quote(c.Name))
			}
		}
		definitions = append(definitions, "\tPRIMARY KEY ("+strings.Join(key, ", ")+")")
		return []string{"CREATE TABLE IF NOT EXISTS " + table + " (\n" + strings.Join(definitions, ",\n") + "\n)"}
	case sqlsink.AddColumn:
		return []string{"ALTER TABLE " + table + " ADD COLUMN IF NOT EXISTS " + definition(step.Columns[0])}
	case sqlsink.WidenColumn:
		return widen(table, step)
	default:
		return []string{"ALTER TABLE " + table + " ALTER COLUMN " + quote(step.Real.Name) + " DROP NOT NULL"}
	}
}

// definition returns the definition of a new column.
func definition(c sqlsink.NewColumn) string {
	text := quote(c.Name) + " " + types[c.Type]
	if c.Key {
		text += " NOT NULL"
	}
	return text
}

// Types of widened columns. A column of integers becomes NUMBER(38,18) rather than a floating-point
// type, because a NUMBER holds every 64-bit integer and 18 decimal places exactly.
const (
	wideInteger = "NUMBER(38,0)"
	wideDecimal = "NUMBER(38,18)"
	wideText    = "VARCHAR(16777216)"
)

// widen returns the statements that widen a column. If only the length or precision changes, one
// statement alters the column in place. Otherwise the statements add a new column, fill it, drop
// the old column and rename the new one. If they are interrupted, the table has the complete old
// column or the complete new column, and Tables finishes the renaming. The result is nil if the
// column cannot be widened.
func widen(table string, step sqlsink.MigrationStep) []string {
	c := step.Real
	alter := "ALTER TABLE " + table + " "
	switch a := c.Native.(*attribute); {
	case step.To == schema.Integer:
		return []string{alter + "ALTER COLUMN " + quote(c.Name) + " SET DATA TYPE " + wideInteger}
	case step.To == schema.String && a.kind == kindText:
		return []string{alter + "ALTER COLUMN " + quote(c.Name) + " SET DATA TYPE " + wideText}
	case utf8.RuneCountInString(c.Name) > maxName-len(wideDecimals), step.To != schema.Number && step.To != schema.String:
		return nil
	}
	prefix, to := wideDecimals, wideDecimal
	expression := quote(c.Name)
	if step.To == schema.String {
		prefix, to = wideTexts, wideText
		expression = textExpression(quote(c.Name), c.Native.(*attribute))
	}
	next := quote(prefix + c.Name)
	return []string{
		alter + "ADD COLUMN IF NOT EXISTS " + next + " " + to,
		"UPDATE " + table + " SET " + next + " = " + expression,
		alter + "DROP COLUMN " + quote(c.Name),
		alter + "RENAME COLUMN " + next + " TO " + quote(c.Name),
	}
}

// Prefixes of the names that the new columns of widenings have before they are renamed.
const (
	wideDecimals = "_eds_wide_n_"
	wideTexts    = "_eds_wide_s_"
)

// widenedFrom reports whether name is the temporary name of the new column of a widening, and
// returns the name of the column that the new column replaces.
func widenedFrom(name string) (of string, ok bool) {
	for _, prefix := range []string{wideDecimals, wideTexts} {
		if of, ok := strings.CutPrefix(name, prefix); ok && of != "" {
			return of, true
		}
	}
	return "", false
}

// instantFormat formats instants as RFC 3339 with six fractional digits.
const instantFormat = `'YYYY-MM-DD"T"HH24:MI:SS.FF6"Z"'`

// textExpression returns an SQL expression that converts the values of a column to text. The
// parameter column is the SQL expression for the column.
func textExpression(column string, a *attribute) string {
	switch a.kind {
	case kindText:
		return column
	case kindTZ, kindLTZ:
		return "TO_VARCHAR(CONVERT_TIMEZONE('UTC', " + column + "), " + instantFormat + ")"
	case kindNTZ:
		return "TO_VARCHAR(" + column + ", " + instantFormat + ")"
	case kindDate:
		return "TO_VARCHAR(" + column + ", 'YYYY-MM-DD')"
	case kindVariant, kindObject, kindArray:
		return "TO_JSON(" + column + ")"
	case kindFixed:
		if a.scale > 0 { // remove trailing zeros of the fraction
			return "RTRIM(RTRIM(TO_VARCHAR(" + column + "), '0'), '.')"
		}
	}
	return "TO_VARCHAR(" + column + ")"
}
