package drivers_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/testing/golden"
)

// optionTables matches the option tables in a page. The comment before a table names the drivers
// that have the options.
var optionTables = regexp.MustCompile(`(?s)(<!-- options of ([a-z0-9 -]+); written by: make golden -->\n)(.*?)(<!-- end of options -->)`)

// optionTable returns the table of the options of the named drivers. It lists an option that
// several drivers have only once.
func optionTable(t *testing.T, names []string) string {
	var b strings.Builder
	b.WriteString("\n| option | default | meaning |\n|---|---|---|\n")
	seen := make(map[string]bool)
	for _, name := range names {
		d, err := drivers.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range sink.Listed(d.Options) {
			if seen[o.Name] {
				continue
			}
			seen[o.Name] = true
			value := o.DefaultNote
			if value == "" && o.Default != "" {
				value = "`" + o.Default + "`"
			}
			if value != "" {
				value += " "
			}
			fmt.Fprintf(&b, "| `%s` | %s| %s |\n", o.Name, value, strings.ReplaceAll(o.Help, "|", `\|`))
		}
	}
	return b.String() + "\n"
}

func TestDocs_ListTheOptions(t *testing.T) {
	pages, err := filepath.Glob("../../docs/drivers/*.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := make(map[string]bool)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		got := optionTables.ReplaceAllStringFunc(string(text), func(table string) string {
			parts := optionTables.FindStringSubmatch(table)
			names := strings.Fields(parts[2])
			for _, name := range names {
				listed[name] = true
			}
			return parts[1] + optionTable(t, names) + parts[4]
		})
		golden.CompareFile(t, page, got)
	}
	for _, d := range drivers.All() {
		if !listed[d.Name] {
			t.Errorf("no page of docs/drivers lists the options of %s", d.Name)
		}
	}
}
