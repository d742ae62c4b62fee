//go:build sqlserver

package sqlserver

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// TestConformance_RealServer runs the conformance suite on the server of EDS_TEST_SQLSERVER_URL, as
// a user who may create databases; compose.yaml starts one. Each check gets its own database, which
// is dropped afterwards.
func TestConformance_RealServer(t *testing.T) {
	raw := os.Getenv("EDS_TEST_SQLSERVER_URL")
	server, err := url.Parse(raw)
	if err != nil || raw == "" {
		t.Fatalf("EDS_TEST_SQLSERVER_URL is not the url of a server: %v", err)
	}
	sinktest.Run(t, sinktest.Config{
		Driver: Driver(), PadsKeys: true,
		URL: func(t testing.TB) string { return newRealDatabase(t, *server) },
		Untouched: func(t testing.TB) (string, func() string) {
			raw := newRealDatabase(t, *server)
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			query := u.Query()
			query.Set("schema", "mine")
			u.RawQuery = query.Encode()
			return u.String(), func() string { return objectsOf(t, raw) }
		},
		Foreign: func(t testing.TB, raw, table string) {
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			realExec(t, u, foreign(table))
		},
		Views: true,
		SQL: func(t testing.TB, raw, statement string) {
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			realExec(t, u, statement)
		},
		LoseStage: func(t testing.TB, raw, job, table, id string) {
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			realExec(t, u, loseStage(job, table, id))
		},
		Faulty: func(t testing.TB, raw string, env sink.Env) (sink.Sink, sinktest.Faults) {
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			proxy := sinktest.NewProxy(t, u.Host)
			u.Host = proxy.Addr()
			s, err := Driver().Open(t.Context(), u, env)
			if err != nil {
				t.Fatal(err)
			}
			return s, proxy
		},
	})
}

// newRealDatabase creates an empty database with the usual collation, which ignores case, and
// returns its URL.
func newRealDatabase(t testing.TB, server url.URL) string {
	t.Helper()
	name := fmt.Sprintf("eds_test_%d", time.Now().UnixNano())
	realExec(t, &server, "CREATE DATABASE "+quote(name)+" COLLATE SQL_Latin1_General_CP1_CI_AS")
	admin := server
	t.Cleanup(func() {
		realExec(t, &admin, "ALTER DATABASE "+quote(name)+" SET SINGLE_USER WITH ROLLBACK IMMEDIATE")
		realExec(t, &admin, "DROP DATABASE "+quote(name))
	})
	server.Path = "/" + name
	return server.String()
}

// realExec runs a batch in a separate session.
func realExec(t testing.TB, target *url.URL, batch string) {
	t.Helper()
	d, _, err := parse(target, sink.Env{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithoutCancel(t.Context())
	s, err := d.connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	if err := s.exec(ctx, "prepare a test", batch); err != nil {
		t.Fatal(err)
	}
}
