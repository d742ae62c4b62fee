package sqlite

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

func TestConformance(t *testing.T) {
	sinktest.Run(t, sinktest.Config{
		Driver: Driver(),
		URL:    func(t testing.TB) string { return "sqlite://" + filepath.Join(t.TempDir(), "shop.db") },
		Untouched: func(t testing.TB) (string, func() string) {
			above := t.TempDir()
			return "sqlite://" + filepath.Join(above, "a", "b", "shop.db"), func() string { return tree(t, above) }
		},
		Foreign: func(t testing.TB, raw, table string) {
			mustExec(t, openAt(t, raw[len("sqlite://"):]), fmt.Sprintf(`CREATE TABLE %[1]s (
  id VARCHAR(40) PRIMARY KEY, n INT, s VARCHAR(10), must TEXT NOT NULL, extra TEXT
);
INSERT INTO %[1]s VALUES ('old', 7, 'short', 'there', 'kept')`, table))
		},
		Views: true,
		SQL: func(t testing.TB, raw, statement string) {
			t.Helper()
			mustExec(t, openAt(t, raw[len("sqlite://"):]), statement)
		},
		LoseStage: func(t testing.TB, raw, job, table, id string) {
			mustExec(t, openAt(t, raw[len("sqlite://"):]), sinktest.LoseStageSQL(`"`, job, table, id))
		},
		Faulty: func(t testing.TB, raw string, env sink.Env) (sink.Sink, sinktest.Faults) {
			target, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			d, _, err := parse(target, env)
			if err != nil {
				t.Fatal(err)
			}
			f := &faulty{dialect: d, breakAt: -1}
			s, err := sqlsink.Open(t.Context(), f, sqlsink.Options{}, env)
			if err != nil {
				t.Fatal(err)
			}
			return s, f
		},
	})
}

// tree lists the files and directories below a directory, with hashes of the files.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			all = append(all, path)
			return err
		}
		content, err := os.ReadFile(path)
		all = append(all, fmt.Sprintf("%s %x", path, sha256.Sum256(content)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

// Opening, probing and reading do not even change the journal mode.
func TestOpen_DoesNotChangeTheFile(t *testing.T) {
	for _, mode := range []string{"delete", "wal"} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "shop.db")
			db, err := capi.Open(path, capi.Options{Create: true})
			if err == nil {
				err = errors.Join(db.Exec("PRAGMA journal_mode="+mode+"; CREATE TABLE thing (id TEXT PRIMARY KEY, n INTEGER, s TEXT);"+
					" INSERT INTO thing VALUES ('a', 1, 'x')"), db.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			before := tree(t, dir)
			target, err := url.Parse("sqlite://" + path)
			if err != nil {
				t.Fatal(err)
			}
			s, err := open(t.Context(), target, sink.Env{})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Probe(t.Context()); err != nil {
				t.Error(err)
			}
			rows := 0
			for _, err := range s.(sink.Reader).Read(t.Context(), thing(t)) {
				if err != nil {
					t.Error(err)
				}
				rows++
			}
			if err := s.Close(t.Context()); err != nil || rows != 1 {
				t.Errorf("%d rows, %v", rows, err)
			}
			if after := tree(t, dir); after != before {
				t.Errorf("from\n%s\nto\n%s", before, after)
			}
		})
	}
}

// Two sinks that are open before the file exists write into the same file.
func TestSession_FindsACreatedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "shop.db")
	target, err := url.Parse("sqlite://" + path)
	if err != nil {
		t.Fatal(err)
	}
	var sinks []sink.Sink
	for range 2 {
		s, err := open(t.Context(), target, sink.Env{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		sinks = append(sinks, s)
	}
	for i, s := range sinks {
		made, err := s.(sink.Migrator).Migrate(t.Context(), []*schema.Table{thing(t)})
		if err != nil || len(made) != 1-i {
			t.Errorf("sink %d creates %q, %v", i, made, err)
		}
	}
}
