package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/schema"
)

type tableVersion struct{ table, model string }

// splitter returns the splitter for the table and the schema version of e.
func (w *decodeWorker) splitter(intake context.Context, e *cdc.Event) (*change.Splitter, error) {
	v := tableVersion{e.Table, e.ModelVersion}
	if s := w.splitters[v]; s != nil {
		return s, nil
	}
	t, err := w.layout(intake, v)
	if err != nil {
		return nil, err
	}
	s := w.layouts[t]
	if s == nil {
		s = change.NewSplitter(t)
		s.Unknown = w.unknown(t)
		w.layouts[t] = s
	}
	w.splitters[v] = s
	return s, nil
}

// maxUnknown is the maximum number of columns that UnknownColumns remembers. maxColumnName is the
// maximum length of a column's name in the log, in bytes.
const (
	maxUnknown    = 1000
	maxColumnName = 100
)

// UnknownColumns remembers columns that occur in events but not in the schemas of their tables, so
// that each is logged once. It is safe for concurrent use. The zero value is empty.
type UnknownColumns struct {
	mu   sync.Mutex
	seen map[[2]string]bool // table and column
}

// add adds a column, and reports whether the column is new. When maxUnknown columns are known, it
// adds no more and returns false.
func (u *UnknownColumns) add(table, column string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	key := [2]string{table, column}
	if u.seen[key] || len(u.seen) >= maxUnknown {
		return false
	}
	if u.seen == nil {
		u.seen = make(map[[2]string]bool)
	}
	u.seen[key] = true
	return true
}

// unknown returns a function that logs a column that the schema of t lacks. It logs each column
// once.
func (w *decodeWorker) unknown(t *schema.Table) func(name []byte) {
	seen := make(map[string]bool) // columns seen by this worker, which then need not lock Unknown
	return func(name []byte) {
		if seen[string(name)] || len(seen) >= maxUnknown {
			return
		}
		seen[string(name)] = true
		column := string(name[:min(len(name), maxColumnName)])
		if w.p.c.Unknown.add(t.Name, column) {
			w.p.c.Logger.Warn("events have a column that the schema lacks; it is not written",
				"table", t.Name, "version", t.Version, "column", column)
		}
	}
}

// unknownVersionPatience is how long HQ may deny a schema version before events with that version
// become dead letters. Different parts of the source publish a version and send its first change,
// so the change can arrive before the version is published.
const unknownVersionPatience = 15 * time.Second

// gatePatience replaces unknownVersionPatience if there is a Gate. The table can then stay behind,
// so a shorter wait suffices, and other tables wait less.
const gatePatience = 3 * time.Second

func (p *Pipeline) denialPatience() time.Duration {
	if p.c.Gate != nil {
		return gatePatience
	}
	return unknownVersionPatience
}

// layout returns the layout of a table's version. It retries until HQ answers. The error is poison
// if HQ denies the version, and errEnding if the intake ends before the answer. HQ gets time to
// publish a version when the first event with an unknown version arrives, and gets no more time
// later. All events that are in the stream at that time share this wait.
func (w *decodeWorker) layout(intake context.Context, v tableVersion) (*schema.Table, error) {
	var backoff retry.Backoff
	for {
		if intake.Err() != nil {
			return nil, errEnding
		}
		began := time.Now()
		var t *schema.Table
		err := retry.Watch(func() { w.p.status.attemptHangs(dependencySchema, began) }, func() (err error) {
			t, err = w.p.c.Tables.Version(intake, v.table, v.model)
			return err
		})
		wait := time.Duration(0)
		switch {
		case err == nil:
			w.p.status.recovered(dependencySchema)
			return t, nil
		case intake.Err() != nil:
			return nil, errEnding
		case isNotFound(err):
			since, next := w.chunk.existed, time.Now().Add(backoff.Next(nil))
			reason := fmt.Errorf("the schema of table %.80q has no version %.80q", v.table, v.model)
			if denied, ok := errors.AsType[*schema.DeniedError](err); ok {
				since, next, reason = earlier(since, denied.Since), denied.Next, denied
			}
			left := time.Until(since.Add(w.p.denialPatience()))
			if left <= 0 {
				w.p.status.clearRetryState(dependencySchema)
				return nil, fault.Mark(fault.Poison, reason)
			}
			wait = min(left, time.Until(next))
		case fault.Of(err) != fault.Transient:
			return nil, err
		default:
			wait = backoff.Next(err)
		}
		w.p.status.attemptFailed(dependencySchema, began, err)
		if retry.Sleep(intake, wait) != nil {
			return nil, errEnding
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// isNotFound reports whether err means that HQ has answered that the version does not exist.
func isNotFound(err error) bool {
	var n interface{ NotFound() bool }
	return errors.As(err, &n) && n.NotFound()
}
