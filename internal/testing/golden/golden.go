// Package golden compares the output of a test with a file in testdata: SQL, wire formats, or text
// that users see. Only tests import it.
package golden

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// variable is the name of an environment variable that "make golden" sets. If it is set, Compare
// writes the files.
const variable = "EDS_UPDATE_GOLDEN"

// Compare compares the text got with the file of the given name in testdata. In update mode, it
// writes the file first.
func Compare(t testing.TB, name, got string) {
	t.Helper()
	CompareFile(t, filepath.Join("testdata", name), got)
}

// CompareFile compares the text got with the file at path. In update mode, it writes the file
// first.
func CompareFile(t testing.TB, path, got string) {
	t.Helper()
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
		t.Errorf("%s (-want +got; \"make golden\" rewrites the file)\n%s", path, diff)
	}
}
