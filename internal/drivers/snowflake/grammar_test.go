//go:build grammar

package snowflake

import (
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/testing/peers/sqlgrammar"
)

// TestStatements_AreSnowflakes parses every statement, except those that differ only in names, with
// sqlfluff's grammar of Snowflake's SQL. The grammar lacks quotes within quoted names, parameters,
// ADD COLUMN IF NOT EXISTS and SHOW PRIMARY KEYS IN SCHEMA, so the test leaves those out. It needs
// Debian's package sqlfluff:
//
//	go test -tags grammar -run Snowflakes ./internal/drivers/snowflake
func TestStatements_AreSnowflakes(t *testing.T) {
	var titles, texts []string
	seen := make(map[string]bool)
	allStatements(t, "odd", func(title string, statements ...string) {
		words := strings.Fields(title)
		if table := words[len(words)-1]; table == "link" || table == "newer" || table == "foreign" && words[0] != "replace" ||
			words[0] == "delete" || table == "order" && words[1] == "many" {
			return
		}
		for _, text := range statements {
			if text == keysSQL {
				continue
			}
			if text = strings.NewReplacer("ADD COLUMN IF NOT EXISTS", "ADD COLUMN", "?", "'1'").Replace(text) + ";"; !seen[text] {
				seen[text] = true
				titles = append(titles, title)
				texts = append(texts, text)
			}
		}
	})
	// The grammar must reject invalid SQL.
	wrong := len(texts)
	texts = append(texts, `CREATE TABEL "a" ("b" STRING);`, `MERGE INTO "a" AS t USING "b" AS s WHEN MATCHED THEN UPDATE;`,
		`COPY "a" FROM @"s"/f;`)
	for i, found := range sqlgrammar.Unparsable(t, "snowflake", texts) {
		switch {
		case i < wrong && found:
			t.Errorf("%s: not Snowflake's SQL: %s", titles[i], texts[i])
		case i >= wrong && !found:
			t.Errorf("sqlfluff accepts this as Snowflake's SQL: %s", texts[i])
		}
	}
}
