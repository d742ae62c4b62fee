package e2e_test

import (
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// TestHeal_DroppedAndTruncatedTables expects a running server to restore the tables by itself,
// while the other tables continue.
func TestHeal_DroppedAndTruncatedTables(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ statement, state string }{
		"DROP TABLE": {`DROP TABLE "order" CASCADE`, "missing"},
		"TRUNCATE":   {`TRUNCATE "order"`, "incomplete"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			w := newWorld(t, d.url, devhq.Options{})
			w.imports()
			p := w.serve()
			w.continues(p, 100)
			d.execute(c.statement)
			d.recorded(p, "order", c.state)
			w.work(100)
			d.recorded(p, "order", "")
			w.drain(p)
			p.stop()
			w.equal()
		})
	}
}

// TestHeal_Off leaves a dropped table alone.
func TestHeal_Off(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	p := w.serve("--heal=off")
	w.continues(p, 100)
	d.execute(`DROP TABLE "order" CASCADE`)
	w.work(200)
	w.drain(p)
	d.recorded(p, "order", "missing")
	p.stop()
	if strings.Contains(p.output(), "importing tables that are missing") {
		t.Errorf("the table was imported\n%s", p.output())
	}
}
