package cli

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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

func newDeadLetters(p Process, common *config.CommonFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "See, replay or drop the events and rows that could not be applied",
		Long: `The dead-letter queue holds the events that could never be applied, and the rows that
an import could not load, each with the reason. Fix the reason, then replay; or drop what
you do not need.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDeadLetterList(p, common), newDeadLetterShow(p, common), newDeadLetterReplay(p, common), newDeadLetterDrop(p, common))
	return cmd
}

// filterFlags choose entries.
type filterFlags struct {
	flags  *pflag.FlagSet
	filter dlq.Filter
	since  string
}

func bindFilter(cmd *cobra.Command) *filterFlags {
	f := &filterFlags{flags: cmd.Flags()}
	cmd.Flags().StringVar(&f.filter.Table, "table", "", "only of this `table`")
	cmd.Flags().StringVar(&f.filter.Operation, "operation", "", "only INSERT, UPDATE or DELETE")
	cmd.Flags().StringVar(&f.filter.Stage, "stage", "", "only those rejected at this `stage`: decode, schema, apply or import")
	cmd.Flags().StringVar(&f.since, "since", "", "only those rejected since this `time`, as 2026-01-31T00:00:00Z, or this long ago, as 24h")
	return f
}

// resolve returns the filter. An empty id or value is an error, as of a variable that is
// not set: it would choose everything.
func (f *filterFlags) resolve(ids []string) (dlq.Filter, error) {
	if slices.ContainsFunc(ids, func(id string) bool { return strings.TrimSpace(id) == "" }) {
		return f.filter, usagef("the id of an entry is empty; see: eds dlq list")
	}
	for _, flag := range f.given() {
		if strings.TrimSpace(flag.Value.String()) == "" {
			return f.filter, usagef("--%s: its value is empty; leave the flag out, if that is meant", flag.Name)
		}
	}
	for name, of := range map[string]struct {
		value string
		known []string
	}{
		"operation": {strings.ToUpper(f.filter.Operation), []string{"INSERT", "UPDATE", "DELETE"}},
		"stage":     {f.filter.Stage, []string{"decode", "schema", "apply", dlq.StageImport}},
	} {
		if of.value != "" && !slices.Contains(of.known, of.value) {
			return f.filter, usagef("--%s: want one of %s", name, strings.Join(of.known, ", "))
		}
	}
	f.filter.IDs = ids
	if f.since == "" {
		return f.filter, nil
	}
	if d, err := time.ParseDuration(f.since); err == nil {
		f.filter.Since = time.Now().Add(-d)
		return f.filter, nil
	}
	t, err := time.Parse(time.RFC3339, f.since)
	if err != nil {
		return f.filter, usagef("--since: want a time like 2026-01-31T00:00:00Z or a duration like 24h")
	}
	f.filter.Since = t
	return f.filter, nil
}

// given returns the flags that narrow the choice.
func (f *filterFlags) given() (given []*pflag.Flag) {
	for _, name := range []string{"table", "operation", "stage", "since"} {
		if flag := f.flags.Lookup(name); flag.Changed {
			given = append(given, flag)
		}
	}
	return given
}

// withQueue begins the command and opens the queue.
func withQueue(p Process, common *config.CommonFlags, do func(s *setup, q *dlq.Queue) error) error {
	s, err := begin(p, common, "")
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := os.Stat(s.common.DataDir); err != nil {
		return fmt.Errorf("open the data directory: %w; name that of the server with --data-dir", err)
	}
	q, err := dlq.Open(s.common.DataDir + "/dlq")
	if err != nil {
		return err
	}
	return do(s, q)
}

func newDeadLetterList(p Process, common *config.CommonFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the entries with their reasons", Args: noArgs}
	flags := bindFilter(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		filter, err := flags.resolve(nil)
		if err != nil {
			return err
		}
		return withQueue(p, common, func(_ *setup, q *dlq.Queue) error {
			t := tabwriter.NewWriter(out(cmd), 0, 0, 2, ' ', 0)
			n := 0
			for e, err := range q.List(filter) {
				if err != nil {
					return err
				}
				if n++; n == 1 {
					fmt.Fprintln(t, "ID\tREJECTED\tTABLE\tOPERATION\tSTAGE\tSTATE\tREASON")
				}
				state := "waiting"
				if e.Superseded {
					state = "superseded"
				}
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.ID, e.Time.UTC().Format(time.RFC3339), dash(e.Table), dash(e.Operation), e.Stage, state, e.Reason)
			}
			switch {
			case n > 0:
			case len(flags.given()) > 0:
				fmt.Fprintln(t, "The flags choose no entry; without them, all are listed.")
			default:
				fmt.Fprintln(t, "The dead-letter queue is empty.")
			}
			return t.Flush()
		})
	}
	return cmd
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newDeadLetterShow(p Process, common *config.CommonFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "show ID", Short: "Print one entry, its payload included"}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 || strings.TrimSpace(args[0]) == "" {
			return usagef("%s needs the id of one entry, or its first digits; see: eds dlq list", cmd.CommandPath())
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withQueue(p, common, func(_ *setup, q *dlq.Queue) error {
			e, err := q.Show(args[0])
			if err != nil {
				return err
			}
			w := out(cmd)
			if e.File != "" {
				fmt.Fprintf(w, "file:      %s\nline:      %d\njob:       %s\n", e.File, e.Line, e.Job)
			}
			fmt.Fprintf(w, "id:        %s\nrejected:  %s\nsubject:   %s\nsequence:  %d\nevent:     %s\ntable:     %s\noperation: %s\nstage:     %s\nreason:    %s\nencoding:  %s\n\n",
				e.ID, e.Time.UTC().Format(time.RFC3339), e.Subject, e.Sequence, dash(e.EventID), dash(e.Table), dash(e.Operation), e.Stage, e.Reason, dash(e.Encoding))
			_, err = fmt.Fprintln(w, strings.TrimSuffix(legible(&e), "\n"))
			return err
		})
	}
	return cmd
}

// legible returns the payload of an entry as JSON; if it cannot be decoded as it
// came, or in hexadecimal if that is no text for a terminal.
func legible(e *dlq.Entry) string {
	if text, err := cdc.NewDecoder().Text(e.Payload, e.Encoding); err == nil && printable(text) {
		return string(text)
	}
	if printable(e.Payload) {
		return string(e.Payload)
	}
	return hex.Dump(e.Payload)
}

func printable(text []byte) bool {
	return utf8.Valid(text) && !bytes.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' })
}

func newDeadLetterDrop(p Process, common *config.CommonFlags) *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "drop [ID...]", Short: "Drop entries for good"}
	flags := bindFilter(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "drop every entry that the other flags choose")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 && !all {
			return usagef("name the entries to drop, or pass --all")
		}
		filter, err := flags.resolve(args)
		if err != nil {
			return err
		}
		return withQueue(p, common, func(_ *setup, q *dlq.Queue) error {
			for _, id := range args {
				if err := checkUnique(q, id); err != nil {
					return err
				}
			}
			n, err := q.Drop(filter)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(out(cmd), "%d dropped\n", n)
			return err
		})
	}
	return cmd
}

// checkUnique refuses an id that several entries have: the first digits of all are 0.
func checkUnique(q *dlq.Queue, id string) error {
	n := 0
	for _, err := range q.List(dlq.Filter{IDs: []string{id}}) {
		if err != nil {
			return err
		}
		if n++; n > 1 {
			return usagef("several entries begin with %q; name each by its whole id, or pass --all with flags that choose them", id)
		}
	}
	return nil
}

func newDeadLetterReplay(p Process, common *config.CommonFlags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "replay [ID...]",
		Short: "Apply entries to the destination again",
		Long: `Applies entries, all or those named, in the order of the stream. What is applied
leaves the queue; what is rejected again stays, with the new reason. An entry
whose row has changed since, or whose table was imported whole since, is not applied,
unless --force is given: it would put an old row over a newer one. If the row is not known, because
the entry cannot be decoded, any change of its table counts. A row that an import left out is
written if that import is still the last one of its table; a line that is no row stays. The
server must not run meanwhile.`,
	}
	flags := bindFilter(cmd)
	server := config.BindServer(cmd.Flags())
	cmd.Flags().BoolVar(&force, "force", false, "apply superseded entries too")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		filter, err := flags.resolve(args)
		if err != nil {
			return err
		}
		return withQueue(p, common, func(s *setup, q *dlq.Queue) error {
			o, err := server.Resolve(s.common, config.Lookup(p.Lookup), s.file)
			if err != nil {
				return usage(err)
			}
			done, err := replay(cmd.Context(), p, s, o, force, func(apply func(context.Context, dlq.Entry) error) (dlq.Replayed, error) {
				filter.Destination = reconciler.Named(o.URL.Reveal(), p.Lookup).Identity
				return q.Replay(cmd.Context(), filter, force, apply)
			})
			fmt.Fprintf(out(cmd), "%d applied, %d rejected again, %d superseded\n", done.Applied, done.Rejected, done.Superseded)
			if err == nil && done.Rejected > 0 {
				err = errors.New("some entries were rejected again; see: eds dlq list")
			}
			return err
		})
	}
	return cmd
}

// replay opens what applying takes and hands each entry to the destination.
func replay(ctx context.Context, p Process, s *setup, o config.Server, force bool, each func(func(context.Context, dlq.Entry) error) (dlq.Replayed, error)) (dlq.Replayed, error) {
	dir, err := state.Open(s.common.DataDir) // which also keeps a server out
	if err != nil {
		return dlq.Replayed{}, err
	}
	defer dir.Close()
	client, err := connectHQ(s, o.HQ)
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
	r := replayer{driver: driver, destination: destination, tables: tables}
	if !force {
		if r.imported, err = dir.Snapshots(reconciler.Named(o.URL.Reveal(), p.Lookup)); err != nil {
			return dlq.Replayed{}, err
		}
	}
	return each(r.apply)
}

// errNoDestination says that a command needs a destination.
var errNoDestination = usagef("there is no destination; give one with --url, as in --url postgres://user:${PASSWORD}@host:5432/database, or see: eds server help")

// connectHQ returns a client of HQ with a checked key.
func connectHQ(s *setup, o config.HQ) (*hq.Client, error) {
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
	destination sink.Sink
	tables      *schema.Catalogue
	// imported are the last snapshots of tables, whose rows are not replaced; nil: they are.
	imported map[string]state.Snapshot
}

// superseded reports whether a snapshot holds a later state of the row. Of other rows than
// a snapshot replaced, and after the import of another server, newer changes come by the
// stream, which marks the entries that they make obsolete.
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
	case entry.Stage == dlq.StageImport: // a line that is no row
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
	b.Add(e, effect) // Migrate would make a table again that was dropped: it serves imports
	return r.destination.Apply(ctx, b.Batch())
}
