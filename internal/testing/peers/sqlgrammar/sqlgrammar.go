// Package sqlgrammar checks with sqlfluff whether a text is valid SQL of a dialect. It is for
// databases that have no server for tests.
package sqlgrammar

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Unparsable reports, for each text, whether sqlfluff fails to parse it in the dialect. It needs
// Debian's package sqlfluff.
func Unparsable(t testing.TB, dialect string, texts []string) []bool {
	t.Helper()
	dir := t.TempDir()
	for i, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d.sql", i)), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := exec.CommandContext(t.Context(), "sqlfluff", "parse", "--dialect", dialect, "--format", "json", ".")
	run.Dir = dir
	out, err := run.Output() // it also exits with an error if a text is unparsable
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
