//go:build tsql

package sqlserver

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestStatementsAreTSQL parses every statement with sqlfluff's grammar of T-SQL.
// It does not know the hint of a MERGE's target, SET LOCK_TIMEOUT, nor brackets within brackets,
// and overlooks a COLUMN after ADD and a MERGE without its semicolon, so those are
// looked at here. It takes most of a minute and Debian's package sqlfluff:
//
//	go test -tags tsql -run TSQL ./internal/drivers/sqlserver
func TestStatementsAreTSQL(t *testing.T) {
	all := allStatements(t)
	hint := regexp.MustCompile(`(MERGE INTO \S+(?: \S+\])?) WITH \(HOLDLOCK\) AS T`)
	brackets := strings.NewReplacer("[it's [odd]]]", "[odd]", "[note]]s]", "[notes]", "SET LOCK_TIMEOUT 30000;", "")
	texts := slices.Clone(all.statements)
	for i, text := range texts {
		if strings.Contains(text, "MERGE ") {
			if !hint.MatchString(text) || !regexp.MustCompile(`(?s)MERGE INTO .*VALUES \([^;]*\);(\n|$)`).MatchString(text) {
				t.Errorf("a MERGE without HOLDLOCK or its semicolon: %s", text)
			}
			texts[i] = hint.ReplaceAllString(text, "$1 AS T")
		}
		texts[i] = brackets.Replace(texts[i])
		if regexp.MustCompile(`(?i)\bADD\s+COLUMN\b`).MatchString(text) {
			t.Errorf("ADD COLUMN is not T-SQL: %s", text)
		}
	}
	// What it takes for T-SQL must not be just anything.
	wrong := len(texts)
	texts = append(texts, "CREATE TABEL [a] ([b] INT)", "MERGE INTO [a] AS T USING [b] AS S WHEN MATCHED THEN UPDATE;")
	for i, found := range unparsable(t, texts) {
		switch {
		case i < wrong && found:
			t.Errorf("%s: not T-SQL: %s", all.titles[i], all.statements[i])
		case i >= wrong && !found:
			t.Errorf("sqlfluff takes this for T-SQL: %s", texts[i])
		}
	}
}

// unparsable says of each text whether sqlfluff can not parse it.
func unparsable(t *testing.T, texts []string) []bool {
	t.Helper()
	dir := t.TempDir()
	for i, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d.sql", i)), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := exec.CommandContext(t.Context(), "sqlfluff", "parse", "--dialect", "tsql", "--format", "json", ".")
	run.Dir = dir
	out, err := run.Output()
	var files []struct {
		Path     string          `json:"filepath"`
		Segments json.RawMessage `json:"segments"`
	}
	if failed := json.Unmarshal(out, &files); failed != nil {
		t.Fatalf("sqlfluff (Debian: apt-get install sqlfluff): %v, %v", err, failed)
	}
	found := make([]bool, len(texts))
	seen := 0
	for _, f := range files {
		var i int
		if _, err := fmt.Sscanf(filepath.Base(f.Path), "%d.sql", &i); err != nil {
			t.Fatal(err)
		}
		seen++
		found[i] = string(f.Segments) == "null" || strings.Contains(string(f.Segments), `"unparsable"`)
	}
	if seen != len(texts) {
		t.Fatalf("sqlfluff has parsed %d of %d statements", seen, len(texts))
	}
	return found
}
