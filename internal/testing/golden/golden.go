// Package golden compares what a test makes with a file that is kept of it: SQL
// texts, wire formats, texts that users see. Only tests import it.
package golden

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// variable is set to write the files anew: "make golden".
const variable = "EDS_UPDATE_GOLDEN"

// Compare compares got with the file of that name in testdata, or writes the
// file.
func Compare(t testing.TB, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv(variable) != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-kept +made; \"make golden\" writes it anew)\n%s", path, diff)
	}
}
