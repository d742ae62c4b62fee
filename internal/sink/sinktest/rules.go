package sinktest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// DocumentedRules compares the table of rules in a driver's page, docs/drivers/NAME.md, with the
// rules that the driver declares. It ignores the Markdown of inline code.
func DocumentedRules(t *testing.T, driver string, rules sqlsink.ValueRules) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "drivers", driver+".md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(page), "| rule | what happens |\n|---|---|\n")
	if !ok {
		t.Fatalf("docs/drivers/%s.md has no table of rules", driver)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	var want []string
	for _, r := range rules.List() {
		want = append(want, "| "+r.Name+" | "+r.Help+" |")
	}
	got := strings.Split(strings.TrimSpace(strings.ReplaceAll(table, "`", "")), "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/drivers/%s.md differs from the declared rules (-declared +documented):\n%s", driver, diff)
	}
}
