package bench_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/devhq/shop"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

var widths = []int{20, 60}

// rowsBefore is the number of rows in the table at the start of the stream.
func rowsBefore() int { return setting("EDS_BENCH_ROWS", 500_000) }

// BenchmarkPostgres imports a snapshot, then catches up on a stream of waiting events. It compares
// each with the speed of the same server for the same rows, already encoded.
func BenchmarkPostgres(b *testing.B) {
	for _, columns := range widths {
		b.Run(fmt.Sprintf("columns=%d", columns), func(b *testing.B) {
			for b.Loop() {
				benchmarkPostgres(b, columns)
			}
		})
	}
}

func benchmarkPostgres(b *testing.B, columns int) {
	pg := peers.StartPostgres(b)
	database := pg.Database(b)
	w := newWorld(b, columns, rowsBefore())
	w.export()
	took, memory := w.imports(database)
	imported := float64(rowsBefore()) / took.Seconds()
	raw := rawCopy(b, database)
	report("import into PostgreSQL   %2d columns  %8.0f rows/s    raw COPY  %8.0f rows/s    ratio %.2f   memory %s", columns, imported,
		raw, imported/raw, mib(memory))
	b.ReportMetric(imported, "import-rows/s")
	b.ReportMetric(imported/raw, "import-ratio")

	base := copyOf(b, pg, database)
	n := events()
	w.fill(n)
	p := w.serve(database)
	samples := w.await(p, uint64(n))
	cpu := p.cpu() / time.Duration(n)
	memory = p.stop()
	rate, first, last := rates(samples)
	alone, beside := replayed(b, w, pg, base, columns, n)
	report("stream into PostgreSQL   %2d columns  %8.0f events/s  replayed  %8.0f events/s  ratio %.2f   memory %s   first "+
		"tenth %.0f, last tenth %.0f events/s", columns, rate, beside, rate/beside, mib(memory), first, last)
	report("                         eds itself spends %v of a core an event;  replayed with no stream to read  %8.0f events/s  "+
		"ratio %.2f", cpu.Round(100*time.Nanosecond), alone, rate/alone)
	b.ReportMetric(rate, "events/s")
	b.ReportMetric(rate/beside, "stream-ratio")
	b.ReportMetric(float64(memory)/(1<<20), "MiB")
}

// rates returns the rates of the whole run, and of its first and last tenth. The time starts just
// before the first acknowledgement.
func rates(samples []sample) (whole, first, last float64) {
	begin := slices.IndexFunc(samples, func(s sample) bool { return s.acked > 0 })
	samples = samples[max(begin-1, 0):]
	total := samples[len(samples)-1].acked
	between := func(from, to uint64) float64 {
		i := slices.IndexFunc(samples, func(s sample) bool { return s.acked >= from })
		j := slices.IndexFunc(samples, func(s sample) bool { return s.acked >= to })
		return float64(samples[j].acked-samples[i].acked) / max(samples[j].at.Sub(samples[i].at).Seconds(), 1e-3)
	}
	return between(0, total), between(0, total/10), between(total-total/10, total)
}

// rawCopy copies the table that eds made into an equal one, key included, and returns the rows per
// second.
func rawCopy(b *testing.B, database string) float64 {
	b.Helper()
	ctx := context.Background()
	conn := connect(b, database)
	defer conn.Close(ctx)
	path := filepath.Join(b.TempDir(), "rows")
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	if _, err := conn.PgConn().CopyTo(ctx, file, `COPY (SELECT * FROM bench ORDER BY id COLLATE "C") TO STDOUT BINARY`); err != nil {
		b.Fatal(err)
	}
	execute(b, conn, `CREATE TABLE bench_raw (LIKE bench INCLUDING ALL)`, `CHECKPOINT`)
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	tag, err := conn.PgConn().CopyFrom(ctx, file, `COPY bench_raw FROM STDIN BINARY`)
	if err != nil {
		b.Fatal(err)
	}
	rate := float64(tag.RowsAffected()) / time.Since(began).Seconds()
	execute(b, conn, `DROP TABLE bench_raw`, `CHECKPOINT`)
	return rate
}

// copyOf copies the database and returns the name of the copy.
func copyOf(b *testing.B, pg *peers.PostgresServer, database string) string {
	b.Helper()
	u, err := url.Parse(database)
	if err != nil {
		b.Fatal(err)
	}
	conn := connect(b, pg.URL("postgres"))
	defer conn.Close(context.Background())
	execute(b, conn, "CREATE DATABASE base TEMPLATE "+strings.TrimPrefix(u.Path, "/"))
	return "base"
}

// replayed applies the same events in process, through a recorder, to a copy of the database. Then
// it sends the recording to other copies: once alone, and once while a bare loop reads and
// acknowledges the same events, as any client must. It returns the events per second of both.
func replayed(b *testing.B, w *world, pg *peers.PostgresServer, base string, columns, n int) (alone, beside float64) {
	b.Helper()
	admin := connect(b, pg.URL("postgres"))
	defer admin.Close(context.Background())
	execute(b, admin, "CREATE DATABASE replay TEMPLATE "+base)
	server, err := url.Parse(pg.URL("replay"))
	if err != nil {
		b.Fatal(err)
	}
	r := record(b, server.Host)
	through := *server
	through.Host = r.listener.Addr().String()
	apply(b, through.String(), columns, n)
	r.close() // the last bytes are in the recording now
	sent := r.largest().sent.Bytes()
	measure := func(meanwhile func()) float64 {
		execute(b, admin, "DROP DATABASE replay", "CREATE DATABASE replay TEMPLATE "+base, "CHECKPOINT")
		var other sync.WaitGroup
		began := time.Now()
		other.Go(meanwhile)
		ready, wrong := replay(b, server.Host, sent)
		other.Wait()
		if wrong > 0 || ready < 2 {
			b.Fatalf("the recording does not replay: %d errors, %d times ready", wrong, ready)
		}
		return float64(n) / time.Since(began).Seconds()
	}
	alone = measure(func() {})
	beside = measure(func() { w.readBare(n) })
	return alone, beside
}

// apply applies the generator's events to the destination in batches of the
// driver's best size.
func apply(b *testing.B, destination string, columns, n int) {
	b.Helper()
	ctx := context.Background()
	driver, s, err := drivers.Open(ctx, destination, os.LookupEnv, sink.Env{
		Logger: slog.New(slog.DiscardHandler), Stream: "dbchange", Consumer: "bench", Adjusted: func(string, string, string) {},
	})
	if err != nil {
		b.Fatal(err)
	}
	g := shop.NewChangeGenerator(1, "bench", columns, rowsBefore(), time.Now())
	table, err := schema.Decode(g.Schema())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Migrator.Migrate(ctx, []*schema.Table{table}); err != nil {
		b.Fatal(err)
	}
	decoder, splitter := cdc.NewDecoder(), change.NewSplitter(table)
	var builder change.Builder
	for i := range n {
		e := &cdc.Event{Position: cdc.Position{Sequence: uint64(i + 1), Stored: int64(i + 1)}}
		if err := decoder.Decode(e, g.Next().AppendJSON(nil), ""); err != nil {
			b.Fatal(err)
		}
		effect, err := splitter.Effect(e)
		if err != nil {
			b.Fatal(err)
		}
		builder.Add(e, effect)
		if builder.Len() == driver.Limits.Rows || i == n-1 {
			if err := s.Apply(ctx, builder.Batch()); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := s.Close(ctx); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkIdle measures a server with little to do: how soon a change is visible, how much the
// server uses, and how fast it starts.
func BenchmarkIdle(b *testing.B) {
	for b.Loop() {
		benchmarkIdle(b)
	}
}

func benchmarkIdle(b *testing.B) {
	ctx := context.Background()
	pg := peers.StartPostgres(b)
	database := pg.Database(b)
	w := newWorld(b, 20, 1000)
	w.export()
	w.imports(database)
	conn := connect(b, database)
	defer conn.Close(ctx)

	w.fill(1)
	began := time.Now()
	p := w.serve(database)
	w.await(p, 1)
	started := time.Since(began)
	b.ReportMetric(started.Seconds(), "s-to-start")

	const count = 500
	latencies := make([]time.Duration, 0, count)
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for range count {
		<-pace.C
		latencies = append(latencies, w.latency(conn))
	}
	slices.Sort(latencies)
	p50, p99 := latencies[count/2], latencies[count*99/100]

	idle := p.cpu()
	const length = 20 * time.Second
	<-time.After(length) // measure an idle server
	idle = p.cpu() - idle
	p.stop()
	share := 100 * idle.Seconds() / length.Seconds()
	report("idle                     visible after %v (median), %v (99th percentile) at 50 events/s; %.2f %% of a core while "+
		"nothing happens; %v from start to first change applied",
		p50.Round(10*time.Microsecond), p99.Round(10*time.Microsecond), share, started.Round(time.Millisecond))
	b.ReportMetric(float64(p50)/1e6, "ms-p50")
	b.ReportMetric(float64(p99)/1e6, "ms-p99")
	b.ReportMetric(share, "%-idle-cpu")
}

// latency publishes one change and returns the time until it is visible.
func (w *world) latency(conn *pgx.Conn) time.Duration {
	w.b.Helper()
	c := w.generator.Next()
	var id, revision string
	row := change.NewSplitter(w.table())
	spans, err := row.Split(c.After)
	if err != nil {
		w.b.Fatal(err)
	}
	image := change.Row{Image: c.After, Spans: spans}
	id = string(image.Value(w.table().Slot([]byte("id"))))
	revision = string(image.Value(w.table().Slot([]byte("revision"))))
	began := time.Now()
	if err := w.hq.Conn().PublishMsg(&nats.Msg{Subject: c.Subject(), Data: c.AppendJSON(nil)}); err != nil {
		w.b.Fatal(err)
	}
	for {
		var found bool
		err := conn.QueryRow(context.Background(), `SELECT EXISTS (SELECT FROM bench WHERE id = $1 AND revision::text = $2)`,
			strings.Trim(id, `"`), revision).Scan(&found)
		if err != nil {
			w.b.Fatal(err)
		}
		if found {
			return time.Since(began)
		}
		if time.Since(began) > time.Minute {
			w.b.Fatal("the change does not become visible")
		}
	}
}

func (w *world) table() *schema.Table {
	t, err := schema.Decode(w.generator.Schema())
	if err != nil {
		w.b.Fatal(err)
	}
	return t
}
