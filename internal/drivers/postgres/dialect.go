package postgres

import (
	"fmt"
	"hash/fnv"
	"net/url"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// dialect implements sqlsink.Dialect for PostgreSQL and compatible databases.
type dialect struct {
	target   *url.URL       // the URL at the time when the destination was opened
	config   *pgconn.Config // parsed from target; each connection parses its own URL again
	schema   string         // the URL's schema option, or "" for the user's default schema
	timeouts sqlsink.Timeouts
	env      sink.Env
	// The field pooled is set after a session has lost its prepared statements, as happens behind a
	// pooler.
	pooled atomic.Bool
	// server is the part of the newest session that DDL depends on.
	server atomic.Pointer[serverView]
}

// serverView is the part of a session that DDL depends on.
type serverView struct {
	namespace string // the schema of every table
	features  serverFeatures
}

// qualify returns the quoted name of a table, with its schema.
func (s *serverView) qualify(table string) string { return quote(s.namespace) + "." + quote(table) }

// maxName is the maximum length of a name in PostgreSQL, in bytes.
const maxName = 63

// Name returns name if PostgreSQL can use it unchanged. If name is too long, Name cuts it and
// appends a hash of the whole name, so that distinct names stay distinct. Name also appends a hash
// to the names of system columns, and replaces bytes that PostgreSQL cannot store.
func (d *dialect) Name(name string) string {
	name = strings.ToValidUTF8(strings.ReplaceAll(name, "\x00", value.Replacement), value.Replacement)
	if len(name) <= maxName && !systemColumns[name] {
		return name
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	cut := min(len(name), maxName-17)
	if cut == len(name) {
		return fmt.Sprintf("%s_%016x", name, h.Sum64())
	}
	for !utf8.RuneStart(name[cut]) {
		cut--
	}
	return fmt.Sprintf("%s_%016x", name[:cut], h.Sum64())
}

// systemColumns are the names of the system columns, which every table already has.
var systemColumns = map[string]bool{"tableoid": true, "xmin": true, "cmin": true, "xmax": true, "cmax": true, "ctid": true}

// FoldsCase returns false, because quoted names keep their case.
func (d *dialect) FoldsCase() bool { return false }

// quote returns name as a quoted identifier.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// literal returns text as a string constant that does not depend on standard_conforming_strings.
func literal(text string) string {
	text = strings.ReplaceAll(text, "'", "''")
	if strings.Contains(text, `\`) {
		return "E'" + strings.ReplaceAll(text, `\`, `\\`) + "'"
	}
	return "'" + text + "'"
}

// types maps schema types to the PostgreSQL types of new columns.
var types = map[schema.Type]string{
	schema.String: "text", schema.Enum: "text", schema.DateTime: "timestamptz", schema.Integer: "bigint",
	schema.Number: "double precision", schema.Boolean: "boolean", schema.Object: "jsonb", schema.Array: "jsonb",
}

// DDL returns the statements of a migration step, for the server that the newest session is
// connected to.
func (d *dialect) DDL(step sqlsink.MigrationStep) []string {
	server := d.server.Load()
	table := server.qualify(step.Table)
	switch step.Kind {
	case sqlsink.CreateTable:
		definitions := make([]string, 0, len(step.Columns)+1)
		var key []string
		for _, c := range step.Columns {
			definitions = append(definitions, "\t"+server.definition(c))
			if c.Key {
				key = append(key, quote(c.Name))
			}
		}
		definitions = append(definitions, "\tPRIMARY KEY ("+strings.Join(key, ", ")+")")
		return []string{"CREATE TABLE IF NOT EXISTS " + table + " (\n" + strings.Join(definitions, ",\n") + "\n)"}
	case sqlsink.AddColumn:
		return []string{"ALTER TABLE " + table + " ADD COLUMN IF NOT EXISTS " + server.definition(step.Columns[0])}
	case sqlsink.WidenColumn:
		return []string{"ALTER TABLE " + table + " ALTER COLUMN " + quote(step.Real.Name) + " TYPE " + widened(step)}
	default:
		return []string{"ALTER TABLE " + table + " ALTER COLUMN " + quote(step.Real.Name) + " DROP NOT NULL"}
	}
}

// definition returns the definition of a new column. Text keys and versions get the collation "C",
// which compares bytes. This collation is faster than other collations, and sorts in the order that
// eds uses.
func (s *serverView) definition(c sqlsink.NewColumn) string {
	text := quote(c.Name) + " " + types[c.Type]
	if types[c.Type] == "text" && (c.Key || c.Meta == sqlsink.MetaVersion) && !s.features.Cockroach {
		text += ` COLLATE "C"`
	}
	if c.Key {
		text += " NOT NULL"
	}
	return text
}

// widened returns the wider type and, if needed, a USING clause that converts the values. Integers
// become numeric rather than a floating-point type, because numeric is exact. Instants become text
// in RFC 3339.
func widened(step sqlsink.MigrationStep) string {
	name := quote(step.Real.Name)
	switch {
	case step.To == schema.Integer:
		return "bigint"
	case step.To == schema.Number && step.Real.Narrow:
		return "double precision"
	case step.To == schema.Number:
		return "numeric USING " + name + "::numeric"
	case step.Real.Holds == schema.DateTime:
		return "text USING " + rfc3339(name, step.Real)
	default:
		return "text USING " + name + "::text"
	}
}

// rfc3339 returns an SQL expression that formats an instant as RFC 3339 text. The parameter column
// is the column that holds the instant.
func rfc3339(expression string, column *sqlsink.RealColumn) string {
	if a, ok := column.Native.(*attribute); ok {
		switch a.kind {
		case kindDate:
			return "to_char(" + expression + `, 'YYYY-MM-DD')`
		case kindTimestamp:
			return "to_char(" + expression + `, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`
		}
	}
	return "to_char(" + expression + ` AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`
}
