package reconciler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/tables"
)

// Bounds of the imports that the server itself requests.
const (
	healInterval  = time.Minute    // time between two inspections of the tables
	healAgain     = 24 * time.Hour // minimum time between two imports of one table
	healMaxTables = 4              // maximum number of tables per import
)

// healer finds tables that were lost or are new at HQ, and requests imports of these tables. It
// runs while the stream is followed.
type healer struct {
	*Reconciler
	inspection  *inspection // nil if the destination cannot be inspected or charges for queries
	at          *Destination
	set         *tables.Set
	destination tables.Sink
	imports     map[string]importStats
	backfill    bool   // whether to import tables that are new at HQ
	warned      string // latest warning about unverified tables; "" if there is none
	latest      func(context.Context) (map[string]*schema.Table, error)
	retention   func(context.Context) (oldest time.Time, first uint64, err error)
}

// healerFor returns the healer for the destination of the lanes l. The parameter metered says
// whether the destination charges for queries. The healer does not inspect such a destination.
func (r *follower) healerFor(d *Destination, l *lanes, ev *recordedEvidence, source *jetstream.Source, metered bool) *healer {
	h := &healer{
		Reconciler: r.Reconciler, at: d, set: l.set, destination: l.destination,
		imports: importedTables(ev.Evidence.Snapshots, ev.Records.Snapshots),
		latest:  r.Tables.Latest, retention: source.Retention,
	}
	importedAll := slices.ContainsFunc(ev.Records.Snapshots, func(s sink.LoadRecord) bool { return s.Whole && s.Job != "" })
	h.backfill = r.Options.BackfillNewTables && h.enabled() && importedAll
	if l.inspector != nil && !metered {
		h.inspection = &inspection{
			Inspector: l.inspector, set: l.set, imports: h.imports, dir: r.State, at: ev.at, filled: make(map[string]uint64),
			unverifiedSince: make(map[string]time.Time), verified: r.verifiedSince,
		}
	}
	return h
}

// enabled reports whether the configuration allows the server itself to request imports.
func (h *healer) enabled() bool {
	return h.Options.Heal == config.HealTables || h.Options.Heal == config.HealAll
}

// onProbation reports whether this version of eds is on probation. During probation, the healer
// changes no tables: after a rollback, the previous version of eds must find the tables unchanged.
func (h *healer) onProbation() bool { return h.Probation != nil && h.Probation() }

// watch inspects the tables and their dead letters every minute until the context due ends. It
// heals lost tables, and drops expired dead letters.
func (h *healer) watch(due, hard context.Context) {
	tick := time.NewTicker(healInterval)
	defer tick.Stop()
	for due.Err() == nil {
		if err := errors.Join(h.inspect(due), h.expire(due), h.heal(due, hard)); err != nil && due.Err() == nil {
			h.Logger.Warn("tables cannot be healed now; trying again in a minute", "error", err)
		}
		select {
		case <-tick.C:
		case <-due.Done():
		}
	}
}

// expire drops dead letters that are too old, and records that the tables lack the dropped changes.
func (h *healer) expire(ctx context.Context) error {
	now := time.Now()
	names := h.Dead.Expired(h.at.Identity, now)
	if len(names) == 0 || h.onProbation() {
		return nil
	}
	reason := fmt.Sprintf("dead letters of the table were older than %d days and were dropped", int(h.Dead.Limits.Age.Hours()/24))
	if err := h.set.Lack(ctx, h.destination, names, reason); err != nil {
		return err
	}
	return h.Dead.DropExpired(h.at.Identity, names, now)
}

// heal requests an import of tables that are missing or incomplete, if the server may request an
// import now.
func (h *healer) heal(due, hard context.Context) error {
	now := time.Now()
	names := h.tablesToImport(now)
	if len(names) == 0 || h.onProbation() {
		return nil
	}
	names, slow, err := h.splitByRetention(due, names)
	if err != nil {
		return err
	}
	next := now.Add(healAgain)
	for name, reason := range slow {
		h.Logger.Error(
			"the server does not import a table by itself: the stream would lose changes meanwhile", "table", name, "reason", reason,
		)
		if err := h.set.Postpone(hard, h.destination, []string{name}, next, reason); err != nil {
			return err
		}
	}
	if names = names[:min(len(names), healMaxTables)]; len(names) == 0 {
		return nil
	}
	id, err := h.requestHealing(h.at, names, now)
	if errors.Is(err, errUnderWay) || errors.Is(err, errOtherDestination) {
		return nil // the next call of heal finds the tables again
	}
	if err != nil {
		return fmt.Errorf("request an import of tables that are missing or incomplete: %w", err)
	}
	h.Logger.Info("importing tables that are missing or incomplete", "tables", sink.Names(names), "id", id)
	return h.set.Postpone(hard, h.destination, names, next, "")
}

// tablesToImport returns the names of the tables that the server should import now. If all imported
// tables are lost, it returns no names, unless the option is config.HealAll.
func (h *healer) tablesToImport(now time.Time) (names []string) {
	if !h.enabled() {
		return nil
	}
	lost, recent := 0, h.recentlyHealed(now)
	for _, t := range h.set.States() {
		if t.Table == sink.OtherTables || t.State != sink.Missing && (t.State != sink.Incomplete || t.Accepted) {
			continue
		}
		if _, ok := h.imports[t.Table]; ok {
			lost++
		}
		if !t.Next.After(now) && !recent[t.Table] {
			names = append(names, t.Table)
		}
	}
	if lost == len(h.imports) && h.Options.Heal != config.HealAll {
		return nil
	}
	return names
}

// splitByRetention splits the named tables by the expected duration of their import. The result
// fast holds the tables whose import is expected to end before the stream drops changes. The result
// slow maps each other table to the reason why the table is not imported.
func (h *healer) splitByRetention(ctx context.Context, names []string) (fast []string, slow map[string]string, err error) {
	oldest, first, err := h.retention(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("read how long the stream keeps changes: %w", err)
	}
	keeps := time.Since(oldest)
	slow = make(map[string]string)
	for _, name := range names {
		if took := h.imports[name].took; first > 1 && took > keeps {
			slow[name] = fmt.Sprintf("its last import took %s, and the stream keeps changes for %s, so eds does not import it by itself",
				took.Round(time.Second), keeps.Round(time.Second))
		} else {
			fast = append(fast, name)
		}
	}
	return fast, slow, nil
}

// recentlyHealed returns the tables of the destination for which the server itself requested an
// import within the last day.
func (h *healer) recentlyHealed(now time.Time) map[string]bool {
	desired, _ := h.desired.now()
	recent := make(map[string]bool)
	for _, past := range desired.Healed {
		if past.Destination == h.at.Identity && now.Sub(past.At) < healAgain {
			recent[past.Table] = true
		}
	}
	return recent
}

// requestHealing requests an import of the named tables into d, and records the request in the
// desired state, which survives restarts.
func (r *Reconciler) requestHealing(d *Destination, names []string, now time.Time) (id string, err error) {
	q := ImportRequest{Options: snapshot.Options{Only: names, OwnTables: true}}
	return r.requestImport(q, func(desired *desired) error {
		if desired.destination != d {
			return errOtherDestination
		}
		desired.Healed = slices.DeleteFunc(desired.Healed, func(past state.Healing) bool { return now.Sub(past.At) >= healAgain })
		for _, name := range names {
			desired.Healed = append(desired.Healed, state.Healing{Destination: d.Identity, Table: name, At: now.UTC()})
		}
		return nil
	})
}
