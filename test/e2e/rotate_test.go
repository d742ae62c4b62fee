package e2e_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/telemetry"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// TestPassword_IsRotatedWhileTheServerRuns changes the password in the database first, and in eds's
// file later. In between it restarts the server.
func TestPassword_IsRotatedWhileTheServerRuns(t *testing.T) {
	t.Parallel()
	pg := peers.StartPostgres(t)
	d := databaseAt(t, pg.Database(t))
	d.execute("CREATE ROLE eds LOGIN PASSWORD 'FirstPassword'; GRANT CREATE ON SCHEMA public TO eds")
	pg.Authenticate(t, "host all eds 127.0.0.1/32 scram-sha-256", "host all all 127.0.0.1/32 trust")
	file := filepath.Join(t.TempDir(), "password")
	put := func(password string) {
		if err := os.WriteFile(file+".new", []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	u, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "postgres://eds:${file:"+file+"}@"+u.Host+u.Path, devhq.Options{Rate: 400})
	put("mistyped")
	if code := w.serve().wait(); code != 3 {
		t.Fatalf("with a mistyped password the first start ends with %d", code)
	}
	put("FirstPassword")
	w.imports()
	p := w.serve()
	w.applied(p, 300)

	d.execute("ALTER ROLE eds PASSWORD 'SecondPassword'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'eds'")
	const refused = `refuses the password of user "eds"`
	w.waitsAtOnce(p, refused)
	p.kill()
	p = w.serve()
	w.waitsAtOnce(p, refused)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	p.stop()
	p = w.serve()
	w.waitsAtOnce(p, "no such file")
	put("SecondPassword")
	w.drain(p)

	d.execute("ALTER ROLE eds PASSWORD 'ThirdPassword'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'eds'")
	w.waitsAtOnce(p, refused)
	type outcome struct {
		out  string
		code int
	}
	imported := make(chan outcome, 1)
	go func() {
		out, code := w.importEnds("--only", "customer")
		imported <- outcome{out, code}
	}()
	eventually(t, "health says what the import waits for", func() bool {
		_, report := p.health()
		return slices.ContainsFunc(report.Reasons, func(r telemetry.Reason) bool {
			return r.Condition == "import" && strings.Contains(r.Message, refused)
		})
	}, p.output)
	put("ThirdPassword")
	if got := <-imported; got.code != 0 {
		t.Errorf("the import ends with %d\n%s", got.code, got.out)
	}
	w.quiet(p)
	p.stop()
	u.User = url.UserPassword("eds", "ThirdPassword")
	w.url = u.String()
	w.equal()
}

// waitsAtOnce expects health to give the reason for the wait, before it would report that the
// pipeline makes no progress.
func (w *world) waitsAtOnce(p *process, why string) {
	w.t.Helper()
	seen := ""
	eventually(w.t, "health gives the reason for the wait", func() bool {
		code, report := p.health()
		seen = fmt.Sprintf("%d: %+v", code, report)
		return code == http.StatusServiceUnavailable && len(report.Reasons) == 1 &&
			report.Reasons[0].Condition == "destination" && strings.Contains(report.Reasons[0].Message, why)
	}, func() string { return seen + "\n" + p.output() })
}
