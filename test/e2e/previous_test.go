package e2e_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"go.etcd.io/bbolt"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// previous simulates the release before records were kept in the destination. It writes what that
// release wrote: rows, two columns of the checkpoint, and its own fields of the data directory.
type previous struct {
	t        *testing.T
	w        *world
	d        *database
	tables   map[string]*schema.Table
	consumer string
	filters  []string
}

// previousPosition is a position in the data directory.
type previousPosition struct {
	Position struct {
		Sequence uint64
		Stored   int64
	} `json:"position"`
	Scanned     uint64    `json:"scanned,omitempty"`
	At          time.Time `json:"at"`
	Exact       bool      `json:"exact,omitempty"`
	Filter      string    `json:"filter,omitempty"`
	Destination string    `json:"destination,omitempty"`
}

// previousSnapshot is a snapshot in the data directory.
type previousSnapshot struct {
	Table       string    `json:"table"`
	Clock       string    `json:"clock"`
	Job         string    `json:"job,omitempty"`
	Destination string    `json:"destination"`
	Rows        int64     `json:"rows"`
	ImportedAt  time.Time `json:"importedAt"`
	Begun       bool      `json:"begun"`
	Partial     bool      `json:"partial,omitempty"`
	Whole       bool      `json:"whole,omitempty"`
	Reference   bool      `json:"reference,omitempty"`
	Earlier     string    `json:"earlier,omitempty"`
}

// previousRelease turns the database and the data directory after an import into those of the
// previous release after its import.
func previousRelease(w *world, d *database) *previous {
	w.t.Helper()
	p := &previous{t: w.t, w: w, d: d, tables: w.tables(), consumer: "eds-" + w.id}
	for _, company := range w.hq.Shop().Companies() {
		p.filters = append(p.filters, "dbchange.*.*."+company+".*.PUBLIC.>")
	}
	slices.Sort(p.filters)
	d.execute(`DROP TABLE IF EXISTS _eds_destination, _eds_snapshot, _eds_table, _eds_checkpoint`)
	p.update(func(tx *bbolt.Tx) error {
		err := tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			if !slices.Contains([]string{"meta", "schemas", "snapshots"}, string(name)) {
				return b.ForEach(func(key, _ []byte) error { return b.Delete(key) })
			}
			return nil
		})
		return errors.Join(err, p.eachSnapshot(tx, func(*previousSnapshot) {}))
	})
	return p
}

// update changes the data directory.
func (p *previous) update(change func(*bbolt.Tx) error) {
	p.t.Helper()
	db, err := bbolt.Open(filepath.Join(p.w.data, "eds.db"), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		p.t.Fatal(err)
	}
	if err := errors.Join(db.Update(change), db.Close()); err != nil {
		p.t.Fatal(err)
	}
}

// eachSnapshot changes every snapshot, and keeps only the fields of the release.
func (p *previous) eachSnapshot(tx *bbolt.Tx, change func(*previousSnapshot)) error {
	b := tx.Bucket([]byte("snapshots"))
	texts := make(map[string][]byte)
	err := b.ForEach(func(key, text []byte) error {
		var s previousSnapshot
		if err := json.Unmarshal(text, &s); err != nil {
			return err
		}
		change(&s)
		encoded, err := json.Marshal(s)
		texts[string(key)] = encoded
		return err
	})
	for key, text := range texts {
		err = errors.Join(err, b.Put([]byte(key), text))
	}
	return err
}

// work makes the shop make at least n changes, and applies all that are left.
func (p *previous) work(n int) {
	p.t.Helper()
	p.w.work(n)
	p.stream()
}

// previousCheckpoint is the table as the previous release makes it.
const previousCheckpoint = `CREATE TABLE IF NOT EXISTS _eds_checkpoint (
	stream text NOT NULL, consumer text NOT NULL, filter text NOT NULL, position bigint NOT NULL, stored bigint NOT NULL,
	PRIMARY KEY (stream, consumer, filter))`

// stream follows the stream from the checkpoint to its end, as one batch.
func (p *previous) stream() {
	p.t.Helper()
	ctx := p.t.Context()
	conn, err := pgx.Connect(ctx, p.d.url)
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(ctx, previousCheckpoint); err != nil {
		p.t.Fatal(err)
	}
	var from, to previousPosition
	err = conn.QueryRow(ctx, `SELECT position, stored FROM _eds_checkpoint WHERE stream = 'dbchange' AND consumer = $1 AND filter = $2`,
		p.consumer, strings.Join(p.filters, " ")).Scan(&from.Position.Sequence, &from.Position.Stored)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		p.t.Fatal(err)
	}
	to = from
	messages := p.receive(from.Position.Sequence)
	batch, err := conn.Begin(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, m := range messages {
		at, err := m.Metadata()
		if err != nil {
			p.t.Fatal(err)
		}
		to.Position.Sequence, to.Position.Stored = at.Sequence.Stream, max(to.Position.Stored, at.Timestamp.UnixNano())
		if err := p.apply(ctx, batch, m.Data()); err != nil {
			p.t.Fatal(err)
		}
	}
	p.checkpoint(ctx, batch, from, to)
	if err := batch.Commit(ctx); err != nil {
		p.t.Fatal(err)
	}
	p.record(to)
	for _, m := range messages {
		if err := m.DoubleAck(ctx); err != nil {
			p.t.Fatal(err)
		}
	}
}

// receive returns every message after a sequence. The consumer is made again, as after a
// start below its acknowledgement floor.
func (p *previous) receive(after uint64) []jetstream.Msg {
	p.t.Helper()
	ctx := p.t.Context()
	js, err := jetstream.New(p.w.hq.Conn())
	if err != nil {
		p.t.Fatal(err)
	}
	if err := js.DeleteConsumer(ctx, "dbchange", p.consumer); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		p.t.Fatal(err)
	}
	consumer, err := js.CreateConsumer(ctx, "dbchange", jetstream.ConsumerConfig{
		Durable: p.consumer, Name: p.consumer, AckPolicy: jetstream.AckExplicitPolicy,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1,
		MaxDeliver: -1, MaxAckPending: 25_000, AckWait: time.Minute, InactiveThreshold: 7 * 24 * time.Hour, FilterSubjects: p.filters,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	var all []jetstream.Msg
	for pending := int(consumer.CachedInfo().NumPending); len(all) < pending; {
		batch, err := consumer.Fetch(pending - len(all))
		if err != nil {
			p.t.Fatal(err)
		}
		for m := range batch.Messages() {
			all = append(all, m)
		}
		if err := batch.Error(); err != nil {
			p.t.Fatal(err)
		}
	}
	return all
}

// apply applies a change. Snapshots are older than the change, or contain it.
func (p *previous) apply(ctx context.Context, tx pgx.Tx, text []byte) error {
	var change struct {
		Table         string
		Operation     string
		Before, After json.RawMessage
	}
	if err := json.Unmarshal(text, &change); err != nil {
		return err
	}
	table := pgx.Identifier{change.Table}.Sanitize()
	t := p.tables[change.Table]
	var key []string
	for _, c := range t.Columns[:t.Keys] {
		key = append(key, pgx.Identifier{c.Name}.Sanitize())
	}
	row := change.After
	if row == nil {
		row = change.Before
	}
	columns := strings.Join(key, ", ")
	remove := fmt.Sprintf(`DELETE FROM %[1]s WHERE (%[2]s) = (SELECT %[2]s FROM jsonb_populate_record(NULL::%[1]s, $1::text::jsonb))`,
		table, columns)
	if _, err := tx.Exec(ctx, remove, string(row)); err != nil {
		return fmt.Errorf("%s: %w", remove, err)
	}
	if change.Operation == "DELETE" {
		return nil
	}
	insert := fmt.Sprintf(`INSERT INTO %[1]s SELECT * FROM jsonb_populate_record(NULL::%[1]s, $1::text::jsonb)`, table)
	if _, err := tx.Exec(ctx, insert, string(row)); err != nil {
		return fmt.Errorf("%s: %w", insert, err)
	}
	return nil
}

// checkpoint moves the checkpoint if it is still at the start of the batch.
func (p *previous) checkpoint(ctx context.Context, tx pgx.Tx, from, to previousPosition) {
	p.t.Helper()
	_, err := tx.Exec(ctx, `INSERT INTO _eds_checkpoint AS c (stream, consumer, filter, position, stored)
		VALUES ('dbchange', $1, $2, $3, $4)
		ON CONFLICT (stream, consumer, filter) DO UPDATE SET stored = excluded.stored,
		position = CASE WHEN c.position = $5 AND c.stored = $6 THEN excluded.position ELSE 1 / (excluded.position - excluded.position) END`,
		p.consumer, strings.Join(p.filters, " "), to.Position.Sequence, to.Position.Stored, from.Position.Sequence, from.Position.Stored)
	if err != nil {
		p.t.Fatal(err)
	}
}

// record records the position in the data directory, and that the snapshots are followed.
func (p *previous) record(at previousPosition) {
	p.t.Helper()
	sum := sha256.Sum256([]byte(strings.Join(p.filters, " ")))
	_, rest, _ := strings.Cut(p.d.url, "@")
	rest, _, _ = strings.Cut(rest, "?")
	at.Scanned, at.At, at.Exact = at.Position.Sequence, time.Now().UTC(), true
	at.Filter, at.Destination = hex.EncodeToString(sum[:8]), "postgres://"+rest
	p.update(func(tx *bbolt.Tx) error {
		text, err := json.Marshal(at)
		if err == nil {
			err = tx.Bucket([]byte("positions")).Put([]byte(p.consumer), text)
		}
		return errors.Join(err, p.eachSnapshot(tx, func(s *previousSnapshot) { s.Begun = true }))
	})
}

// imports replaces the rows of every table by the shop's current rows, and records that only in the
// data directory.
func (p *previous) imports() {
	p.t.Helper()
	snapshot := p.w.hq.Shop().Snapshot()
	conn, err := pgx.Connect(p.t.Context(), p.d.url)
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows := make(map[string]int64)
	for name := range p.tables {
		table := pgx.Identifier{name}.Sanitize()
		if _, err := conn.Exec(p.t.Context(), "TRUNCATE "+table); err != nil {
			p.t.Fatal(err)
		}
		for row := range snapshot.Rows(name, nil, nil) {
			rows[name]++
			if _, err := conn.Exec(p.t.Context(), fmt.Sprintf(`INSERT INTO %[1]s SELECT * FROM `+
				`jsonb_populate_record(NULL::%[1]s, $1::text::jsonb)`, table), string(row)); err != nil {
				p.t.Fatal(err)
			}
		}
	}
	p.update(func(tx *bbolt.Tx) error {
		return p.eachSnapshot(tx, func(s *previousSnapshot) {
			s.Clock, s.Job, s.Rows = string(snapshot.Clock.Append(nil)), "previous", rows[s.Table]
			s.ImportedAt, s.Begun, s.Whole = time.Now().UTC(), false, true
		})
	})
}

// TestUpgrade_IsRolledBackAndRepeatedQuietly alternates both releases.
func TestUpgrade_IsRolledBackAndRepeatedQuietly(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*process){"stopped": (*process).stop, "killed": (*process).kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			w := newWorld(t, d.url, devhq.Options{})
			w.imports()
			old := previousRelease(w, d)
			old.work(100)
			w.equal() // or this is no release at all
			for range 3 {
				w.work(50)
				p := w.serve()
				w.continues(p, 100)
				w.unreserved(p)
				end(p)
				w.equal()
				old.work(100)
				w.equal()
			}
		})
	}
}

// TestUpgrade_BeforeTheFirstChange upgrades after an import of the previous release.
func TestUpgrade_BeforeTheFirstChange(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	old := previousRelease(w, d)
	w.work(100)
	for range 2 {
		p := w.serve()
		w.continues(p, 50)
		w.unreserved(p)
		p.stop()
		w.equal()
		old.work(50)
	}
	w.equal()
}

// TestUpgrade_AfterAnImportOfThePreviousRelease imports with that release after a roll-back. The
// stream has dropped all changes that were not applied, except for one message before the import.
func TestUpgrade_AfterAnImportOfThePreviousRelease(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	old := previousRelease(w, d)
	old.work(100)
	p := w.serve()
	w.continues(p, 100)
	p.stop()
	if err := w.hq.PurgeStream(t.Context(), w.work(100)); err != nil {
		t.Fatal(err)
	}
	old.imports()
	w.work(50)
	for range 2 {
		p = w.serve()
		w.continues(p, 50)
		p.stop()
	}
	w.equal()
}
