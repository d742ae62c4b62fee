//go:build grammar

package sqlserver

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/testing/peers/sqlgrammar"
)

// TestStatements_AreTSQL parses every statement with sqlfluff's grammar of T-SQL. The grammar lacks
// the hint of a MERGE's target, SET LOCK_TIMEOUT, and brackets within brackets. The grammar accepts
// COLUMN after ADD, and a MERGE without a semicolon at the end, so the test checks these two
// itself. The test runs for almost a minute and needs Debian's package sqlfluff:
//
//	go test -tags grammar -run TSQL ./internal/drivers/sqlserver
func TestStatements_AreTSQL(t *testing.T) {
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
	// The grammar must reject invalid T-SQL.
	wrong := len(texts)
	texts = append(texts, "CREATE TABEL [a] ([b] INT)", "MERGE INTO [a] AS T USING [b] AS S WHEN MATCHED THEN UPDATE;")
	for i, found := range sqlgrammar.Unparsable(t, "tsql", texts) {
		switch {
		case i < wrong && found:
			t.Errorf("%s: not T-SQL: %s", all.titles[i], all.statements[i])
		case i >= wrong && !found:
			t.Errorf("sqlfluff accepts this as T-SQL: %s", texts[i])
		}
	}
}
