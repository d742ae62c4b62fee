package sqlite

import (
	"fmt"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

func TestConformance(t *testing.T) {
	sinktest.Run(t, sinktest.Config{
		Driver: Driver(),
		URL:    func(t testing.TB) string { return "sqlite://" + filepath.Join(t.TempDir(), "shop.db") },
		Foreign: func(t testing.TB, raw, table string) {
			mustExec(t, openAt(t, raw[len("sqlite://"):]), fmt.Sprintf(`CREATE TABLE %[1]s (id VARCHAR(40) PRIMARY KEY, n INT, s VARCHAR(10), must TEXT NOT NULL, extra TEXT);
INSERT INTO %[1]s VALUES ('old', 7, 'short', 'there', 'kept')`, table))
		},
		Faulty: func(t testing.TB, raw string, env sink.Env) (sink.Sink, sinktest.Faults) {
			target, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			d, err := newDialect(target, env)
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
