package file

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// TestID_IsThatOfTheDirectory uses a directory that does not exist at first and is replaced later.
func TestID_IsThatOfTheDirectory(t *testing.T) {
	for _, query := range []string{"", "?format=ndjson", "?format=parquet"} {
		dir := filepath.Join(tempDir(t), "mounted")
		opened := func(id string) sink.Identifier {
			t.Helper()
			d, err := openDisk(dir)
			if err != nil {
				t.Fatal(err)
			}
			s, err := newSink(d, parsed(t, "file://"+dir+query), sink.Env{ID: id})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close(t.Context()) })
			return s.(sink.Identifier)
		}
		expect := func(s sink.Identifier, want string) {
			t.Helper()
			if got, err := s.ID(t.Context()); got != want || err != nil {
				t.Errorf("%s: the id is %q, %v, want %q", query, got, err, want)
			}
		}
		set := func(s sink.Identifier) {
			t.Helper()
			if err := s.SetID(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		s := opened("one")
		expect(s, "")
		if _, err := os.Stat(dir); err == nil {
			t.Error("reading the id creates the directory")
		}
		set(s)
		expect(s, "one")
		other := opened("other")
		set(other)
		expect(other, "one")
		if err := os.Rename(dir, dir+"-away"); err != nil {
			t.Fatal(err)
		}
		expect(s, "")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		expect(s, "")
		set(other)
		expect(s, "other")
		none := opened("")
		set(none)
		expect(none, "other")
	}
}
