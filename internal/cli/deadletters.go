package cli

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
)

func newDeadLetters(p Process, common *config.CommonFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "See, replay or drop the events that could not be applied",
		Long: `The dead-letter queue holds the events that could never be applied, each with the
reason. Mend the reason, then replay; or drop what you do not need.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDeadLetterList(p, common), newDeadLetterShow(p, common), newDeadLetterReplay(p, common), newDeadLetterDrop(p, common))
	return cmd
}

// filterFlags choose entries.
type filterFlags struct {
	filter dlq.Filter
	since  string
}

func bindFilter(cmd *cobra.Command) *filterFlags {
	f := new(filterFlags)
	cmd.Flags().StringVar(&f.filter.Table, "table", "", "only of this `table`")
	cmd.Flags().StringVar(&f.filter.Operation, "operation", "", "only INSERT, UPDATE or DELETE")
	cmd.Flags().StringVar(&f.filter.Stage, "stage", "", "only those rejected at this `stage`: decode, schema or apply")
	cmd.Flags().StringVar(&f.since, "since", "", "only those rejected since this `time`, as 2026-01-31T00:00:00Z, or this long ago, as 24h")
	return f
}

func (f *filterFlags) resolve(ids []string) (dlq.Filter, error) {
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

// withQueue begins the command and opens the queue.
func withQueue(p Process, common *config.CommonFlags, do func(s *setup, q *dlq.Queue) error) error {
	s, err := begin(p, common, "")
	if err != nil {
		return err
	}
	defer s.close()
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
			if n == 0 {
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
		if len(args) != 1 {
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
			fmt.Fprintf(w, "id:        %s\nrejected:  %s\nsubject:   %s\nsequence:  %d\nevent:     %s\ntable:     %s\noperation: %s\nstage:     %s\nreason:    %s\nencoding:  %s\n\n",
				e.ID, e.Time.UTC().Format(time.RFC3339), e.Subject, e.Sequence, dash(e.EventID), dash(e.Table), dash(e.Operation), e.Stage, e.Reason, dash(e.Encoding))
			payload := e.Payload
			var event cdc.Event
			if cdc.NewDecoder().Decode(&event, e.Payload, e.Encoding) == nil {
				payload = event.Payload
			}
			_, err = fmt.Fprintf(w, "%s\n", payload)
			return err
		})
	}
	return cmd
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

func newDeadLetterReplay(p Process, common *config.CommonFlags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "replay [ID...]",
		Short: "Apply entries to the destination again",
		Long: `Applies entries, all or those named, in the order of the stream. What is applied
leaves the queue; what is rejected again stays, with the new reason. An entry
whose row has changed since is not applied, unless --force is given: it would
put an old row over a newer one. The server must not run meanwhile.`,
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
			done, err := replay(cmd.Context(), p, s, o, func(apply func(context.Context, dlq.Entry) error) (dlq.Replayed, error) {
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
func replay(ctx context.Context, p Process, s *setup, o config.Server, each func(func(context.Context, dlq.Entry) error) (dlq.Replayed, error)) (dlq.Replayed, error) {
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
	r := replayer{driver, destination, tables}
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
	return hq.New(hq.Options{BaseURL: base, Key: key, Version: s.build.Version, Logger: s.logger}), nil
}

type replayer struct {
	driver      sink.Driver
	destination sink.Sink
	tables      *schema.Catalogue
}

func (r replayer) apply(ctx context.Context, entry dlq.Entry) error {
	e := &cdc.Event{Position: entry.Position()}
	if err := cdc.NewDecoder().Decode(e, entry.Payload, entry.Encoding); err != nil {
		return fault.Mark(fault.Poison, err)
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
	if m, ok := r.destination.(sink.Migrator); ok {
		if _, err := m.Migrate(ctx, []*schema.Table{t}); err != nil {
			return err
		}
	}
	b.Add(e, effect)
	return r.destination.Apply(ctx, b.Batch())
}
