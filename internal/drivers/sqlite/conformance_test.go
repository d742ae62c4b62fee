package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/shopmonkeyus/eds/internal/drivers/sqlite"
	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

func TestConformance(t *testing.T) {
	sinktest.Run(t, sinktest.Config{
		Driver: sqlite.Driver(),
		URL:    func(t testing.TB) string { return "sqlite://" + filepath.Join(t.TempDir(), "shop.db") },
		Foreign: func(t testing.TB, url, table string) {
			db := openFile(t, url[len("sqlite://"):])
			exec(t, db, fmt.Sprintf(`CREATE TABLE %[1]s (id VARCHAR(40) PRIMARY KEY, n INT, s VARCHAR(10), must TEXT NOT NULL, extra TEXT);
INSERT INTO %[1]s VALUES ('old', 7, 'short', 'there', 'kept')`, table))
		},
	})
}

// openFile opens a database by SQLite's own means; it is closed when the test ends.
func openFile(t testing.TB, path string) *capi.DB {
	t.Helper()
	db, err := capi.Open(path, true, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func exec(t testing.TB, db *capi.DB, sql string) {
	t.Helper()
	if err := db.Exec(sql); err != nil {
		t.Fatal(err)
	}
}
