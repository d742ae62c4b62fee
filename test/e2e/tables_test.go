package e2e_test

import (
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// recorded waits until the destination records the table as given, "" for OK.
func (d *database) recorded(p *process, table, state string) {
	d.t.Helper()
	eventually(d.t, "table "+table+" is recorded as "+state, func() bool {
		return d.query(`SELECT coalesce(max(state), '') FROM _eds_table WHERE kind = 'table' AND name = $1`, table) == state
	}, func() string {
		return d.query(`SELECT string_agg(t::text, E'\n') FROM _eds_table t`) + "\n" + p.output()
	})
}

// TestTable_RefusedByTheDestination leaves one table behind, across a kill, and brings it forward
// once the destination accepts it again.
func TestTable_RefusedByTheDestination(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	p := w.serve()
	w.continues(p, 100)
	d.execute(`ALTER TABLE "order" RENAME COLUMN id TO put_aside`)
	w.work(200)
	w.drain(p)
	d.recorded(p, "order", "behind")
	p.kill()
	w.work(200)
	p = w.serve()
	w.follows(p)
	w.drain(p)
	d.recorded(p, "order", "behind")
	if n := strings.Count(p.output(), `"level":"ERROR"`); n > 0 {
		t.Errorf("%d errors are logged\n%s", n, p.output())
	}
	d.execute(`ALTER TABLE "order" RENAME COLUMN put_aside TO id`)
	w.work(200)
	w.drain(p)
	d.recorded(p, "order", "")
	w.work(100)
	w.drain(p)
	p.stop()
	w.equal()
}

// TestTable_ReplacedByAView replaces a table by a view. Its rows cannot be trusted until it is
// imported.
func TestTable_ReplacedByAView(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	p := w.serve("--heal", "off")
	w.continues(p, 100)
	d.execute(`ALTER TABLE "order" RENAME TO put_aside; CREATE VIEW "order" AS SELECT 1 AS id`)
	w.work(200)
	w.drain(p)
	d.recorded(p, "order", "missing")
	d.execute(`DROP VIEW "order"; ALTER TABLE put_aside RENAME TO "order"`)
	w.imports("--only", "order")
	d.joined(p)
	w.work(50)
	w.drain(p)
	p.stop()
	w.equal()
}

// TestTable_ImportedAlone imports one table, which continues from its snapshot, while the others
// continue from the checkpoint.
func TestTable_ImportedAlone(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	p := w.serve()
	w.continues(p, 300)
	p.stop()
	w.work(200)
	w.imports("--only", "order")
	w.work(200)
	p = w.serve()
	w.continues(p, 100)
	d.recorded(p, "order", "")
	if !strings.Contains(p.output(), `bringing tables forward","tables":"order"`) || strings.Contains(p.output(),
		"from the time of the snapshot") {
		t.Errorf("the table is not brought forward by itself\n%s", p.output())
	}
	p.stop()
	w.equal()
}

// joined waits until no table is behind.
func (d *database) joined(p *process) {
	d.t.Helper()
	eventually(d.t, "every table has caught up", func() bool {
		return d.query(`SELECT count(*) FROM _eds_table`) == "0"
	}, func() string {
		return d.query(`SELECT string_agg(t::text, E'\n') FROM _eds_table t`) + "\n" + p.output()
	})
}

// TestGap_IsAcceptedOrImported makes the stream drop changes while the server is down. Every later
// change is applied. The alarm ends once the operator accepts the gap, and the gap ends once the
// tables are imported.
func TestGap_IsAcceptedOrImported(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	p := w.serve()
	w.continues(p, 100)
	p.stop()
	w.work(100)
	w.trim()
	w.work(50)
	p = w.serve()
	eventually(t, "the server reports the gap", func() bool {
		code, report := p.health()
		return code == 503 && len(report.Reasons) == 1 && strings.HasSuffix(report.Reasons[0].Message, "run eds import")
	}, p.output)
	w.drain(p) // later changes are applied all the same
	id := d.gap(p)
	if _, stderr, code := w.eds("accept-gap", "--data-dir", w.data, "ffffff"); code == 0 || !strings.Contains(stderr, id) {
		t.Errorf("an unknown gap: exit code %d\n%s", code, stderr)
	}
	if stdout, stderr, code := w.eds("accept-gap", "--data-dir", w.data, id); code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, stdout, stderr)
	}
	for range 2 {
		eventually(t, "the accepted gap ends the alarm", func() bool {
			code, report := p.health()
			return code == 200 && len(report.Reasons) == 0
		}, p.output)
		d.recorded(p, "order", "incomplete")
		p.stop()
		p = w.serve()
		w.continues(p, 50)
	}
	w.imports()
	d.joined(p)
	w.drain(p)
	p.stop()
	w.equal()
}

// gap returns the id of the gap that eds status shows.
func (d *database) gap(p *process) string {
	d.t.Helper()
	_, report := p.health()
	for _, table := range report.Tables {
		if table.Gap != "" {
			return table.Gap
		}
	}
	d.t.Fatalf("no table has a gap: %v", report.Tables)
	return ""
}
