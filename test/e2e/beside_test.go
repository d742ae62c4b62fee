package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// readers read tables of the database continuously.
type readers struct {
	d      *database
	end    context.CancelFunc
	group  sync.WaitGroup
	mu     sync.Mutex
	faults []string
	rounds int
}

// read starts readers that look for empty tables and for rows that become older.
func (d *database) read() *readers {
	ctx, cancel := context.WithCancel(context.Background())
	r := &readers{d: d, end: cancel}
	for _, table := range []string{"company", "customer", "order", "service"} {
		r.group.Go(func() { r.follow(ctx, table) })
	}
	d.t.Cleanup(func() {
		cancel()
		r.group.Wait()
	})
	return r
}

// follow reads the number of rows of a table, and the counter of changes in each row of table
// company, whose few rows change continuously.
func (r *readers) follow(ctx context.Context, table string) {
	conn, err := pgx.Connect(ctx, r.d.url)
	if err != nil {
		r.fault("connect: %v", err)
		return
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var last int64
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		<-tick.C
		text := fmt.Sprintf(`SELECT count(*), 0::bigint FROM %q`, table)
		if table == "company" {
			text = `SELECT count(*), coalesce(sum(revision), 0)::bigint FROM company`
		}
		var count, revision int64
		err := conn.QueryRow(ctx, text).Scan(&count, &revision)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			r.fault("read %s: %v", table, err)
		case count == 0:
			r.fault("%s has no rows", table)
		case revision < last:
			r.fault("%s went back from revision %d to %d", table, last, revision)
		}
		last = max(last, revision)
		r.mu.Lock()
		r.rounds++
		r.mu.Unlock()
	}
}

func (r *readers) fault(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

// stop expects that the readers have found nothing.
func (r *readers) stop() {
	r.d.t.Helper()
	r.end()
	r.group.Wait()
	if r.rounds < 100 {
		r.d.t.Errorf("the readers have read %d times only", r.rounds)
	}
	if len(r.faults) > 0 {
		r.d.t.Errorf("readers noticed the import, %d times: %s", len(r.faults), strings.Join(r.faults[:min(len(r.faults), 10)], "\n"))
	}
}

// besideRate is the shop's rate of changes per second during the imports of these tests.
const besideRate = 200

// TestImport_BesideItsServerShowsNoOlderRows imports one table, and then all, while the
// shop works.
func TestImport_BesideItsServerShowsNoOlderRows(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{Rate: besideRate})
	w.imports()
	p := w.serve()
	w.follows(p)
	d.joined(p)
	readers := d.read()
	for _, args := range [][]string{{"--only", "order"}, nil} {
		if out := w.imports(args...); !strings.Contains(out, "done") {
			t.Errorf("the import says\n%s", out)
		}
		d.joined(p)
	}
	w.drain(p)
	readers.stop()
	if n := strings.Count(p.output(), "loaded rows have caught up"); n < 2 {
		t.Errorf("%d tables were brought forward before they were put in place\n%s", n, p.output())
	}
	w.quiet(p)
	w.unreserved(p)
	p.stop()
	w.equal()
}

// TestImport_BesideItsServerIsKilled kills the worker while it loads tables, brings them
// forward and puts them in place.
func TestImport_BesideItsServerIsKilled(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{Rate: besideRate / 2})
	w.imports()
	p := w.serve()
	w.follows(p)
	d.joined(p)
	readers := d.read()
	w.importing()
	for _, at := range []string{
		"bringing loaded rows forward", "loaded rows have caught up", "has been imported",
		"loaded rows have caught up",
	} {
		before := strings.Count(p.output(), at)
		eventually(t, "the server says: "+at, func() bool {
			return strings.Count(p.output(), at) > before || strings.Contains(p.output(), "the requested import is done")
		}, p.output)
		session := w.session(p, "")
		p.crash()
		w.session(p, session)
	}
	eventually(t, "the import is done", func() bool { return strings.Contains(p.output(), "the requested import is done") }, p.output)
	d.joined(p)
	w.drain(p)
	d.joined(p)
	readers.stop()
	p.stop()
	w.equal()
}
