package snowflake_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/shopmonkeyus/eds/internal/rawjson"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/snowflake"
)

// translated is a statement for DuckDB.
type translated struct {
	sql      string
	args     []string
	selects  bool   // it returns rows
	merges   bool   // it returns the action for each row
	affected string // the name of the count that it returns
}

// catalogue returns the same rows as Snowflake's INFORMATION_SCHEMA.COLUMNS.
const catalogue = `SELECT table_name, column_name,
  CASE WHEN data_type LIKE 'DECIMAL%' THEN 'NUMBER' WHEN data_type = 'DOUBLE' THEN 'FLOAT'
       WHEN data_type = 'TIMESTAMP WITH TIME ZONE' THEN 'TIMESTAMP_TZ'
       WHEN data_type = 'JSON' THEN 'VARIANT' WHEN data_type = 'VARCHAR' THEN 'TEXT' ELSE data_type END,
  CASE WHEN data_type = 'VARCHAR' THEN coalesce(comment, '16777216') END,
  numeric_precision::VARCHAR, numeric_scale::VARCHAR, CASE WHEN data_type LIKE 'TIMESTAMP%' THEN '9' END,
  CASE WHEN is_nullable THEN 'YES' ELSE 'NO' END, column_default, 'NO'
FROM duckdb_columns() WHERE NOT internal AND schema_name = 'main' AND database_name = 'memory'
  AND table_name IN (SELECT unnest(from_json(?, '["VARCHAR"]')))
ORDER BY table_name, column_index`

var (
	stageFile = regexp.MustCompile(`\(SELECT \$1 AS r FROM @"EDS_STAGE"/[\w.]+\)`)
	copyFile  = regexp.MustCompile(`(?s)^COPY INTO (.*?\)) FROM \(\n(.*) FROM @"EDS_STAGE"/[\w.]+\n\) ON_ERROR = ABORT_STATEMENT$`)
	columns   = regexp.MustCompile(`(?:r|\$1):c(\d+)\b`)
	lengthens = regexp.MustCompile(`(?s)^ALTER TABLE (.*) ALTER COLUMN (.*) SET DATA TYPE VARCHAR\(16777216\)$`)
	keyClause = regexp.MustCompile(`(?s)^(CREATE .*?TABLE (?:IF NOT EXISTS )?("(?:[^"]|"")*") \(.*),\n\tPRIMARY KEY \((.*)\)\n\)$`)
)

const parameter = `(SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd'))))`

// spellings are pairs of Snowflake's SQL and DuckDB's, outside of quotes.
var spellings = []struct {
	snowflake *regexp.Regexp
	duckdb    string
}{
	{regexp.MustCompile(`(?:\br|\$1):o::VARCHAR`), "r.o"},
	{regexp.MustCompile(`(?:\br|\$1):n::NUMBER\(38,0\)`), "r.n"},
	{regexp.MustCompile(`(?:\br|\$1):(c\d+)::VARCHAR`), "r.${1}_text"},
	{regexp.MustCompile(`(?:\br|\$1):(c\d+)`), "r.$1"},
	{regexp.MustCompile(`\bNUMBER\(`), "DECIMAL("},
	{regexp.MustCompile(`\bTIMESTAMP_TZ\(\d\)`), "TIMESTAMPTZ"},
	{regexp.MustCompile(`\bVARCHAR\(\d+\)`), "VARCHAR"},
	{regexp.MustCompile(`\bFLOAT\b`), "DOUBLE"},
	{regexp.MustCompile(`\bVARIANT\b`), "JSON"},
	{regexp.MustCompile(`\bTO_JSON\(`), "variant_text("},
	{regexp.MustCompile(`\bTRANSIENT TABLE\b`), "TABLE"},
}

// outside applies f to the parts of a statement outside of quotes.
func outside(text string, f func(string) string) string {
	var out strings.Builder
	for text != "" {
		at := strings.IndexAny(text, `"'`)
		if at < 0 {
			out.WriteString(f(text))
			break
		}
		out.WriteString(f(text[:at]))
		end := at + 1
		for end < len(text) && (text[end] != text[at] || end+1 < len(text) && text[end+1] == text[at]) {
			if text[end] == text[at] {
				end++
			}
			end++
		}
		quoted := text[at:min(end+1, len(text))]
		if quoted[0] == '\'' { // in which Snowflake escapes a backslash, and DuckDB does not
			quoted = strings.ReplaceAll(quoted, `\\`, `\`)
		}
		out.WriteString(quoted)
		text = text[min(end+1, len(text)):]
	}
	return out.String()
}

// translate makes a statement for DuckDB. It puts the rows that the statement reads from a file or
// its parameter into a table of the session.
func (s *duckSession) translate(ctx context.Context, q peer.Query) (*translated, error) {
	text := lengthens.ReplaceAllString(q.SQL, "COMMENT ON COLUMN $1.$2 IS NULL")
	if m := keyClause.FindStringSubmatch(q.SQL); m != nil {
		s.e.setKey(unquote(m[2]), m[3])
		text = m[1] + "\n)"
	}
	t := &translated{sql: text, args: q.Args}
	switch m := copyFile.FindStringSubmatch(q.SQL); {
	case m != nil:
		table, err := s.stageLines(ctx, q.SQL, q.Rows())
		if err != nil {
			return nil, err
		}
		t.sql, t.affected = "INSERT INTO "+m[1]+"\n"+m[2]+" FROM "+table+" AS r", "rows_loaded"
	case stageFile.MatchString(q.SQL):
		table, err := s.stageLines(ctx, q.SQL, q.Rows())
		if err != nil {
			return nil, err
		}
		t.sql = stageFile.ReplaceAllLiteralString(t.sql, table+" AS r")
	case strings.Contains(q.SQL, parameter):
		table, err := s.stageLines(ctx, q.SQL, q.Rows())
		if err != nil {
			return nil, err
		}
		t.sql, t.args = strings.ReplaceAll(t.sql, parameter, table+" AS r"), q.Args[1:]
	}
	t.sql = outside(t.sql, func(text string) string {
		for _, sp := range spellings {
			text = sp.snowflake.ReplaceAllString(text, sp.duckdb)
		}
		return text
	})
	switch word, _, _ := strings.Cut(t.sql, " "); word {
	case "SELECT":
		t.selects = true
	case "MERGE":
		t.merges = true
		t.sql += "\nRETURNING merge_action"
	case "UPDATE":
		t.affected = "number of rows updated"
	case "DELETE":
		t.affected = "number of rows deleted"
	case "INSERT":
		if t.affected == "" {
			t.affected = "number of rows inserted"
		}
	}
	return t, nil
}

// stageLines makes a table of rows: o, n, and the JSON and text of each column that the statement
// reads.
func (s *duckSession) stageLines(ctx context.Context, statement string, lines [][]byte) (string, error) {
	width := 0
	for _, m := range columns.FindAllStringSubmatch(statement, -1) {
		i, err := strconv.Atoi(m[1])
		if err != nil {
			return "", err
		}
		width = max(width, i+1)
	}
	s.staged++
	table := fmt.Sprintf("staged_%d", s.staged)
	definition := []string{"o VARCHAR", "n BIGINT"}
	for i := range width {
		definition = append(definition, fmt.Sprintf("c%d VARCHAR, c%[1]d_text VARCHAR", i))
	}
	if _, err := s.conn.ExecContext(ctx, fmt.Sprintf("DROP TABLE IF EXISTS temp.staged_%d; CREATE TEMP TABLE %s (%s)",
		max(0, s.staged-2), table, strings.Join(definition, ", "))); err != nil {
		return "", err
	}
	return table, s.conn.Raw(func(conn any) error {
		appender, err := duckdb.NewAppender(conn.(driver.Conn), "temp", "main", table)
		if err != nil {
			return err
		}
		for _, line := range lines {
			cells, err := cellsOf(line, width)
			if err == nil {
				err = appender.AppendRow(cells...)
			}
			if err != nil {
				return errors.Join(err, appender.Close())
			}
		}
		return appender.Close()
	})
}

// cellsOf reads an encoded row.
func cellsOf(line []byte, width int) ([]driver.Value, error) {
	cells := make([]driver.Value, 2+2*width)
	m, err := rawjson.OpenObject(line)
	if err != nil {
		return nil, err
	}
	for m.Next() {
		text := string(rawjson.Text(m.Value()))
		switch name := string(m.Name()); {
		case name == "o":
			cells[0] = text
		case name == "n":
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return nil, err
			}
			cells[1] = n
		default:
			i, err := strconv.Atoi(strings.TrimPrefix(name, "c"))
			if err != nil || i >= width {
				return nil, fmt.Errorf("a row has a member %q", name)
			}
			cells[2+2*i], cells[3+2*i] = string(m.Value()), text
		}
	}
	return cells, m.Err()
}
