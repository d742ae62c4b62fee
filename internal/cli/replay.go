package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
)

func newDeadLetterReplay(p Process, common *config.CommonFlags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "replay [ID...]",
		Short: "Apply entries to the destination again",
		Long: `Applies all entries, or those with the given ids, in the order of the stream. Applied
entries leave the queue; entries that are rejected again stay, with the new reason.

If the rows of an entry have changed since, or its table was imported since, the entry is
skipped unless --force is given: it would replace a newer row by an old one. If an entry
moves a row to another key, only the part that has not changed since is applied. Entries
of unknown rows are applied only by id or with --force. A row that an import left out is
written only if no later import has replaced its table. The server must not run meanwhile.`,
	}
	flags := bindFilter(cmd)
	server := config.BindServer(cmd.Flags())
	cmd.Flags().BoolVar(&force, "force", false, "apply superseded entries too")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		filter, err := flags.resolve(args)
		if err != nil {
			return err
		}
		return withQueue(p, common, look, func(s *setup, q *dlq.Queue) error {
			if err := flags.check(q); err != nil {
				return err
			}
			o, err := server.Resolve(s.common, config.Lookup(p.Lookup), s.file)
			if err != nil {
				return usage(err)
			}
			elsewhere := 0
			done, err := replay(cmd.Context(), p, s, o, force, func(dir string, apply applyFunc) (dlq.Replayed, error) {
				q, err := dlq.Open(dir)
				if err != nil {
					return dlq.Replayed{}, err
				}
				identity := reconciler.Named(o.URL.Reveal(), p.Lookup).Identity
				if elsewhere, err = countElsewhere(q, filter, identity); err != nil {
					return dlq.Replayed{}, err
				}
				filter.Destination = identity
				return q.Replay(cmd.Context(), filter, force, apply)
			})
			if err := printReplayed(out(cmd), done, elsewhere, flags.asJSON); err != nil {
				return err
			}
			if err == nil && done.Rejected > 0 {
				err = errors.New("some entries were rejected again; see: eds dlq list")
			}
			return err
		})
	}
	return cmd
}

// countElsewhere returns the number of selected entries that belong to destinations other than
// the one with the given identity. If the filter selects such an entry by its id,
// countElsewhere returns an error.
func countElsewhere(q *dlq.Queue, f dlq.Filter, identity string) (n int, err error) {
	for e, err := range q.List(f) {
		switch {
		case err != nil:
			return 0, err
		case e.Destination == "" || e.Destination == identity:
		case len(f.IDs) > 0:
			return 0, usagef("the entry %s belongs to another destination; give its URL with --url", e.ID)
		default:
			n++
		}
	}
	return n, nil
}

func printReplayed(w io.Writer, done dlq.Replayed, elsewhere int, asJSON bool) error {
	if asJSON {
		return printJSON(w, struct {
			Applied    int `json:"applied"`
			Rejected   int `json:"rejected"`
			Superseded int `json:"superseded"`
			Unknown    int `json:"unknown"`
			Elsewhere  int `json:"elsewhere"` // entries of other destinations
		}{done.Applied, done.Rejected, done.Superseded, done.Unknown, elsewhere})
	}
	text := fmt.Sprintf("%d applied, %d rejected again, %d superseded", done.Applied, done.Rejected, done.Superseded)
	if done.Unknown > 0 {
		text += fmt.Sprintf(", %d of unknown rows left (to apply them, give their ids)", done.Unknown)
	}
	if elsewhere > 0 {
		text += fmt.Sprintf(", %d of other destinations left", elsewhere)
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

// applyFunc applies a dead letter to the destination.
type applyFunc func(context.Context, dlq.Entry) error

// replay locks the data directory, opens the destination, and calls the given callback. The
// callback receives the directory of the queue, and a function that applies one entry.
func replay(
	ctx context.Context, p Process, s *setup, o config.ServerSettings, force bool,
	each func(dir string, apply applyFunc) (dlq.Replayed, error),
) (dlq.Replayed, error) {
	dir, err := state.Open(s.common.DataDir) // locks the directory, so that no server can start
	if err != nil {
		return dlq.Replayed{}, err
	}
	defer dir.Close()
	client, err := connectHQ(s, o.HQSettings)
	if err != nil {
		return dlq.Replayed{}, err
	}
	defer client.Close()
	if o.URL.IsZero() {
		return dlq.Replayed{}, errNoDestination
	}
	tables := schema.NewCatalogue(client, dir)
	driver, destination, err := drivers.Open(ctx, o.URL.Reveal(), p.Lookup, sink.Env{
		Logger: s.logger, Adjusted: func(string, string, string) {}, After: o.UpdateStrategy == config.After, Tables: tables.Version,
	})
	if err != nil {
		return dlq.Replayed{}, refused(err)
	}
	defer destination.Close(hard(ctx))
	r := replayer{driver: driver, destination: destination, tables: tables, force: force}
	if !force {
		if r.imported, err = dir.Snapshots(reconciler.Named(o.URL.Reveal(), p.Lookup)); err != nil {
			return dlq.Replayed{}, err
		}
	}
	return each(dir.Path("dlq"), r.apply)
}

// errNoDestination means that a command needs a destination, but none is configured.
var errNoDestination = usagef(
	"no destination is set; give its URL, as in --url 'postgres://user:${PASSWORD}@host:5432/database', or see: eds server help",
)

// connectHQ returns a client for HQ's API. Before that it checks the format and expiry of the
// key.
func connectHQ(s *setup, o config.HQSettings) (*hq.Client, error) {
	key, err := hq.ParseKey(o.APIKey.Reveal())
	if err == nil {
		err = key.Check(time.Now())
	}
	if err != nil {
		return nil, refused(err)
	}
	base, err := hq.BaseURL(o.APIURL, key)
	if err != nil {
		return nil, usageError{err}
	}
	return hq.New(hq.Options{BaseURL: base, Key: key, Version: s.build.Version, Logger: s.logger, Security: s.security(o)}), nil
}

type replayer struct {
	driver      sink.Driver
	destination *sink.Opened
	tables      *schema.Catalogue
	force       bool // also replace newer rows with older ones
	// imported has the last snapshot of each table. It is used to skip entries that an import
	// has superseded. If it is nil, no entries are skipped.
	imported map[string]state.ImportRecord
}

// superseded reports whether an import has loaded a newer state of the entry's row. The queue
// itself marks entries that later changes supersede.
func (r replayer) superseded(entry *dlq.Entry, e *cdc.Event) bool {
	last := r.imported[e.Table]
	if entry.Stage == dlq.StageImport {
		return r.imported != nil && last.Job != entry.Job
	}
	clock := last.Replaced()
	return !clock.IsZero() && !e.Clock.IsZero() && e.Clock.Compare(clock) <= 0
}

func (r replayer) apply(ctx context.Context, entry dlq.Entry) error {
	e := &cdc.Event{Position: entry.Position()}
	err := cdc.NewDecoder().Decode(e, entry.Payload, entry.Encoding)
	switch {
	case err == nil:
		err = r.write(ctx, entry, e)
	case entry.Stage == dlq.StageImport: // a line that is not a row
		return fault.Mark(fault.Poison, errors.New(entry.Reason))
	default:
		return fault.Mark(fault.Poison, err)
	}
	if entry.Stage == dlq.StageImport && fault.Of(err) == fault.Poison {
		err = fault.Mark(fault.Poison, fmt.Errorf("file %s, line %d: %w", entry.File, entry.Line, err))
	}
	return err
}

func (r replayer) write(ctx context.Context, entry dlq.Entry, e *cdc.Event) error {
	if err := schema.CheckTable(e.Table); err != nil {
		return err
	}
	if r.superseded(&entry, e) {
		return dlq.ErrSuperseded
	}
	var b change.Builder
	if !r.driver.KeepsRows {
		b.Add(e, change.Effect{})
		return r.destination.Apply(ctx, b.Batch())
	}
	t, err := r.tables.Version(ctx, e.Table, e.ModelVersion)
	if err != nil {
		return err
	}
	effect, err := change.NewSplitter(t).Effect(e)
	if err != nil {
		return fault.Mark(fault.Poison, err)
	}
	if !r.force {
		effect = effect.Without(entry.Changed)
	}
	if effect.Upsert == nil && effect.Delete == nil {
		return dlq.ErrSuperseded
	}
	b.Add(e, effect) // without Migrate, which is for imports and would create a dropped table again
	return r.destination.Apply(ctx, b.Batch())
}
