package e2e_test

import (
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// TestRole_ThatMayNotCreateWorksAsBefore writes to tables that another owner has made with the
// previous release.
func TestRole_ThatMayNotCreateWorksAsBefore(t *testing.T) {
	t.Parallel()
	role := newRole(t)
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	old := previousRelease(w, d)
	old.work(100)
	d.execute(`REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ` + role)
	owner := w.url
	w.url = d.as(role)
	for n := range 3 {
		p := w.serve()
		w.continues(p, 100)
		w.names(p, "GRANT", role)
		if n == 1 {
			p.kill()
		} else {
			p.stop()
		}
	}
	w.equal()
	stdout, stderr, _ := w.eds("doctor", "--data-dir", w.data, "--url", w.url, "--server", w.nats)
	if !strings.Contains(stdout, "GRANT") {
		t.Errorf("doctor does not name the grant:\n%s\n%s", stdout, stderr)
	}
	w.url = owner // with whose privileges the records can be made
	p := w.serve()
	w.continues(p, 100)
	w.unreserved(p)
	p.stop()
	w.equal()
}

// names expects one warning, in the log and in health, with all of the texts.
func (w *world) names(p *process, texts ...string) {
	w.t.Helper()
	all := func(line string) bool {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				return false
			}
		}
		return true
	}
	found := false
	for line := range strings.Lines(p.warnings()) {
		found = found || all(line)
	}
	if !found {
		w.t.Errorf("the log does not name %v:\n%s", texts, p.output())
	}
	found = false
	_, report := p.health()
	for _, warning := range report.Warnings {
		found = found || all(warning.Message)
	}
	if !found {
		w.t.Errorf("health does not name %v: %v", texts, report.Warnings)
	}
}
