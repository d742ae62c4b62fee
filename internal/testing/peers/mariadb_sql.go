package peers

import (
	"database/sql"
	"database/sql/driver"
	"strings"
	"testing"
)

// MySQL is a session on a MySQL or MariaDB server, for tests that read the rows that eds wrote, or
// that act as another program.
type MySQL struct{ *sql.DB }

func newMySQL(c driver.Connector) *MySQL {
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(1) // so that all statements share settings and locks
	return &MySQL{db}
}

// Run runs one or more statements. It fails the test if they fail.
func (m *MySQL) Run(t testing.TB, statements string) {
	t.Helper()
	if _, err := m.Exec(statements); err != nil {
		t.Fatalf("%s: %v", statements, err)
	}
}

// Lines returns the rows of a query. Each row is a line of values joined by |, with NULL for null.
func (m *MySQL) Lines(t testing.TB, query string) []string {
	t.Helper()
	rows, err := m.Query(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for rows.Next() {
		values := make([]sql.NullString, len(names))
		into := make([]any, len(names))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		texts := make([]string, len(names))
		for i, v := range values {
			texts[i] = v.String
			if !v.Valid {
				texts[i] = "NULL"
			}
		}
		lines = append(lines, strings.Join(texts, "|"))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}
