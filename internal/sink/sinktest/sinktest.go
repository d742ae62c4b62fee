// Package sinktest is the conformance suite that every driver passes:
//
//	sinktest.Run(t, sinktest.Config{Driver: d, URL: newDatabase})
//
// The suite opens the driver with a URL, as the program does, detects the capabilities of the sink,
// and checks everything that the contract in package sink promises. The package also has an exact
// sink in memory, and a network proxy that injects faults, for other tests.
package sinktest

import (
	"context"
	"flag"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/verify"
)

// Config describes the destination under test.
type Config struct {
	Driver sink.Driver
	// URL creates an empty destination for one check, and returns its URL. The destination exists
	// until the check ends.
	URL func(t testing.TB) string

	// Untouched creates a destination that lacks the schema, file, directory or topic that eds
	// creates before it writes. The returned function state describes everything in the
	// destination. Untouched is nil if eds creates nothing before it writes, and History shows
	// everything.
	Untouched func(t testing.TB) (url string, state func() string)

	// Foreign creates a table without using eds, as another tool might have created it. Its columns
	// are: "id", a text and the primary key; "n", a 32-bit integer; "s", a text of at most 10
	// characters; "must", a text that is NOT NULL and has no default; and "extra", a text. The
	// table has one row: 'old', 7, 'short', 'there', 'kept'. Foreign is nil if the destination has
	// no tables.
	Foreign func(t testing.TB, url, table string)

	// LoseStage damages the stage of a job without using eds. It deletes the staged row with the
	// given id, or the whole stage if id is "". LoseStage is nil if the destination stages
	// nothing.
	LoseStage func(t testing.TB, url, job, table, id string)

	// SQL runs a statement without using eds. Names in the statement need no quotes. SQL is nil
	// if the destination keeps no records, or keeps records that SQL cannot change.
	SQL func(t testing.TB, url, statement string)
	// Views says that the function SQL can create views.
	Views bool

	// Faulty opens the destination over a connection that the Faults can break. Faulty is nil if
	// there is no such connection.
	Faulty func(t testing.TB, url string, env sink.Env) (sink.Sink, Faults)

	// PadsKeys says that the destination treats keys as equal if they differ only in trailing
	// blanks. The sink must then refuse keys with trailing blanks.
	PadsKeys bool

	// Patience is the maximum time that a call may take after the destination has gone down. 0
	// means 20 seconds.
	Patience time.Duration

	// History returns all events of the destination, in the order in which a consumer reads them.
	// History is nil for sinks that keep rows.
	History func(t testing.TB, url string) []Stored
	// Duplicates says that a replay may store an event twice in the history.
	Duplicates bool
}

// Stored is one event in the destination.
type Stored struct {
	Place string // identifies the event: the object's name, or the partition and offset
	Event []byte // JSON
}

// properties is the number of times that rapid checks each property, unless the command line sets
// another number.
const properties = "25"

// Main runs the tests of a driver. It fails if the tests leave goroutines behind.
func Main(m *testing.M) {
	if err := flag.Set("rapid.checks", properties); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// Run runs every check for which the driver of c has the capabilities.
func Run(t *testing.T, c Config) {
	can := featuresOf(t, c)
	for _, k := range checks {
		if k.needs(can) {
			t.Run(k.name, func(t *testing.T) { k.run(newHarness(t, c)) })
		}
	}
}

// property checks one property.
type property struct {
	name string
	// needs reports whether the sink under test has the capabilities that the property requires.
	needs func(features) bool
	run   func(h *harness)
}

// checks has all checks, in the order in which the author of a driver should fix failures.
var checks = concat(driverChecks, rowChecks, replayChecks, migrationChecks, valueChecks, poisonChecks, loadChecks, loadRowsChecks,
	scopeChecks, metadataChecks, faultChecks, recordChecks, stateChecks, lostChecks, advanceChecks, historyChecks)

func concat(lists ...[]property) []property {
	var all []property
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// features are the features of the sink under test.
type features struct {
	rows, checkpoints, migrates          bool
	filters                              bool
	foreign, faulty, history, losesStage bool
	metadata, softDelete, adopts         bool
	records, sql, views, inspects        bool
}

func featuresOf(t testing.TB, c Config) features {
	h := newHarness(t, c)
	s := h.open()
	can := features{
		foreign: c.Foreign != nil, faulty: c.Faulty != nil, history: c.History != nil, losesStage: c.LoseStage != nil,
		sql: c.SQL != nil, views: c.Views,
	}
	does := sink.CapabilitiesOf(s)
	can.rows, can.checkpoints, can.filters = does.Reader != nil, does.Checkpointer != nil, does.FilterReader != nil
	can.migrates, can.records = does.Migrator != nil, does.Recorder != nil
	can.adopts, can.inspects = does.Adopter != nil, does.Inspector != nil
	for _, o := range c.Driver.Options {
		can.metadata = can.metadata || o.Name == "metadata"
		can.softDelete = can.softDelete || o.Name == "delete"
	}
	if !can.rows && !can.history {
		t.Fatal("the sink is no Reader and the Config has no History: there is nothing to check it by")
	}
	return can
}

func keepsRows(c features) bool { return c.rows }

// harness holds a destination and a stream of changes for one check.
type harness struct {
	T
	outer  testing.TB // the test of the check, even while a property runs
	config Config
	url    string
	*stream
	adjusted *adjustments
}

// T has the methods that testing.TB and rapid.T both have.
type T interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Cleanup(f func())
	Output() io.Writer
}

func newHarness(t testing.TB, c Config) *harness {
	return &harness{
		T: t, outer: t, config: c, url: c.URL(t), stream: newStream(t, new(uint64)),
		adjusted: new(adjustments),
	}
}

// ctx returns the context of the check. It ends before the check's cleanups run.
func (h *harness) ctx() context.Context { return h.outer.Context() }

// within returns a harness for one run of a property. It has new models, and continues the stream
// at its current position.
func (h *harness) within(t T) *harness {
	inner := *h
	inner.T, inner.stream = t, newStream(t, h.sequence)
	return &inner
}

// env returns the default environment of sinks, which a check may change.
func (h *harness) env() sink.Env {
	return sink.Env{
		Logger: slog.New(slog.NewTextHandler(h.Output(), nil)), Adjusted: h.adjusted.add,
		Stream: "dbchange", Consumer: "eds-conformance", Filter: "dbchange.*.*.c1.*.PUBLIC.>",
	}
}

// open opens the destination. The sink is closed when the check ends.
func (h *harness) open(changes ...func(*sink.Env)) sink.Sink {
	h.Helper()
	return h.openURL(h.url, changes...)
}

func (h *harness) openURL(raw string, changes ...func(*sink.Env)) sink.Sink {
	h.Helper()
	env := h.env()
	for _, change := range changes {
		change(&env)
	}
	s := h.openAt(raw, env)
	h.Cleanup(func() { h.close(s) })
	return s
}

// openAt opens a destination. The caller must close the sink.
func (h *harness) openAt(raw string, env sink.Env) sink.Sink {
	h.Helper()
	target, err := sink.ParseURL(raw, func(string) (string, bool) { return "", false })
	if err != nil {
		h.Fatal(err)
	}
	s, err := h.config.Driver.Open(h.ctx(), target, env)
	if err != nil {
		h.Fatalf("open: %v", err)
	}
	return s
}

func (h *harness) close(s sink.Sink) {
	h.Helper()
	// The test's context ends before its cleanup.
	if err := s.Close(context.WithoutCancel(h.ctx())); err != nil {
		h.Errorf("close: %v", err)
	}
}

// option returns the destination's URL with an additional option.
func (h *harness) option(pair string) string {
	if strings.Contains(h.url, "?") {
		return h.url + "&" + pair
	}
	return h.url + "?" + pair
}

// migrate prepares the destination for rows of the tables, and returns the lines that Migrate
// returns.
func (h *harness) migrate(s sink.Sink, tables ...*schema.Table) []string {
	h.Helper()
	m, ok := s.(sink.Migrator)
	if !ok {
		return nil
	}
	lines, err := m.Migrate(h.ctx(), tables)
	if err != nil {
		h.Fatalf("migrate: %v", err)
	}
	return lines
}

// apply applies the steps as one batch, or as several batches if one batch cannot hold them.
func (h *harness) apply(s sink.Sink, steps ...textChange) {
	h.Helper()
	if err := h.try(s, steps...); err != nil {
		h.Fatalf("apply: %v", err)
	}
}

func (h *harness) try(s sink.Sink, steps ...textChange) error {
	h.Helper()
	for _, b := range h.batches(h, steps) {
		if err := b.deliver(h.ctx(), s); err != nil {
			h.checkError(err)
			return err
		}
	}
	return nil
}

// checkError checks that an error contains no value of a row.
func (h *harness) checkError(err error) {
	h.Helper()
	if strings.Contains(err.Error(), marker) {
		h.Errorf("the error contains a value of a row: %.300v", err)
	}
}

// expect compares the destination's rows of t with the model's.
func (h *harness) expect(s sink.Sink, t *schema.Table) {
	h.Helper()
	h.expectRows(s, t, h.model(t.Name))
}

func (h *harness) expectRows(s sink.Sink, t *schema.Table, m *tableModel) {
	h.Helper()
	if report := h.compare(s, t, m); !report.Equal() {
		h.Errorf("%s", report)
	}
}

func (h *harness) compare(s sink.Sink, t *schema.Table, m *tableModel) verify.Report {
	h.Helper()
	report, err := verify.Compare(h.ctx(), t, nil, verify.Rows(t, m.images()), s.(sink.Reader).Read(h.ctx(), t))
	if err != nil {
		h.Fatalf("compare: %v", err)
	}
	return report
}

// checkpoint returns the position that s has stored.
func (h *harness) checkpoint(s sink.Sink) cdc.Position {
	h.Helper()
	p, err := s.(sink.Checkpointer).Checkpoint(h.ctx())
	if err != nil {
		h.Fatalf("read the checkpoint: %v", err)
	}
	return p
}

// expectClass checks the class of an error.
func (h *harness) expectClass(err error, want fault.Class) {
	h.Helper()
	if err == nil || fault.Of(err) != want {
		h.Errorf("want a %v error, got %v", want, err)
	}
}

// adjustments records which rules changed values.
type adjustments struct {
	mu   sync.Mutex
	seen map[[2]string]string // the latest rule, by table and column
}

func (a *adjustments) add(table, column, rule string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen == nil {
		a.seen = make(map[[2]string]string)
	}
	a.seen[[2]string{table, column}] = rule
}

// take returns the last rule that changed a value of the column, and forgets that rule.
func (a *adjustments) take(table, column string) (rule string, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rule, ok = a.seen[[2]string{table, column}]
	delete(a.seen, [2]string{table, column})
	return rule, ok
}

func (h *harness) expectTransient(err error) {
	h.Helper()
	h.expectClass(err, fault.Transient)
}

// property returns the test that rapid uses for properties.
func (h *harness) property() rapid.TB { return h.outer }
