package cli

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
)

func newDeadLetters(p Process, common *config.CommonFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Show, replay or drop rejected events and rows",
		Long: `The dead-letter queue holds events that the destination rejected, and rows that an
import could not load, each with its reason. Fix the reason, then replay them; or drop
those that you do not need.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newDeadLetterList(p, common), newDeadLetterShow(p, common), newDeadLetterReplay(p, common),
		newDeadLetterDrop(p, common),
	)
	return cmd
}

// filterFlags are the flags that select dead letters.
type filterFlags struct {
	flags  *pflag.FlagSet
	filter dlq.Filter
	state  string
	since  string
	asJSON bool
}

func bindFilter(cmd *cobra.Command) *filterFlags {
	f := &filterFlags{flags: cmd.Flags()}
	cmd.Flags().StringVar(&f.filter.Table, "table", "", "only of this `table`")
	cmd.Flags().StringVar(&f.filter.Operation, "operation", "", "only INSERT, UPDATE or DELETE")
	cmd.Flags().StringVar(&f.filter.Stage, "stage", "", "only those rejected at this `stage`: decode, schema, apply or import")
	cmd.Flags().StringVar(&f.state, "state", "", "only those in this `state`: waiting, unknown or superseded")
	cmd.Flags().
		StringVar(&f.since, "since", "", "only those rejected since this `time`, like 2026-01-31T00:00:00Z, or in the last, like 24h")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	return f
}

// resolve returns the filter for the flags and ids. An empty id or value, for example from an
// unset shell variable, is an error, because it would select everything.
func (f *filterFlags) resolve(ids []string) (dlq.Filter, error) {
	if slices.ContainsFunc(ids, func(id string) bool { return strings.TrimSpace(id) == "" }) {
		return f.filter, usagef("the id of an entry is empty; see: eds dlq list")
	}
	for _, flag := range f.changedFlags() {
		if strings.TrimSpace(flag.Value.String()) == "" {
			return f.filter, usagef("--%s: its value is empty; leave the flag out to select all", flag.Name)
		}
	}
	for name, of := range map[string]struct {
		value string
		known []string
	}{
		"operation": {strings.ToUpper(f.filter.Operation), []string{"INSERT", "UPDATE", "DELETE"}},
		"stage":     {f.filter.Stage, []string{"decode", "schema", "apply", dlq.StageImport}},
		"state":     {f.state, []string{string(dlq.Waiting), string(dlq.Unknown), string(dlq.Superseded)}},
	} {
		if of.value != "" && !slices.Contains(of.known, of.value) {
			return f.filter, usagef("--%s: want one of %s", name, strings.Join(of.known, ", "))
		}
	}
	f.filter.IDs, f.filter.State = ids, dlq.EntryState(f.state)
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

// changedFlags returns those filter flags that are set on the command line.
func (f *filterFlags) changedFlags() (changed []*pflag.Flag) {
	for _, name := range []string{"table", "operation", "stage", "state", "since"} {
		if flag := f.flags.Lookup(name); flag.Changed {
			changed = append(changed, flag)
		}
	}
	return changed
}

// withQueue begins the command, opens the queue with the function open, and passes the queue to the
// callback. The data directory must already exist. Otherwise a misspelled directory would look like
// an empty queue.
func withQueue(
	p Process, common *config.CommonFlags, open func(dir string) (*dlq.Queue, error), do func(s *setup, q *dlq.Queue) error,
) error {
	s, err := begin(p, common, "")
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := os.Stat(s.common.DataDir); err != nil {
		return fmt.Errorf("open the data directory: %w; choose the server's directory with --data-dir", err)
	}
	dir := filepath.Join(s.common.DataDir, "dlq")
	if !state.Exists(s.common.DataDir) {
		if _, err := os.Stat(dir); err != nil {
			return fmt.Errorf(
				"open the data directory: %s is not a data directory of eds; choose the server's directory with --data-dir",
				s.common.DataDir,
			)
		}
	}
	q, err := open(dir)
	if err != nil {
		return err
	}
	return do(s, q)
}

// look opens the queue for reading and dropping entries. A server may be using the queue at the
// same time.
func look(dir string) (*dlq.Queue, error) { return dlq.Look(dir), nil }

// check returns an error if an id matches no entry or several entries, or if the table has no
// entries.
func (f *filterFlags) check(q *dlq.Queue) error {
	if len(f.filter.IDs) == 0 && f.filter.Table == "" {
		return nil
	}
	matches, tables := make(map[string]int), make(map[string]bool)
	for e, err := range q.List(dlq.Filter{}) {
		if err != nil {
			return err
		}
		tables[e.Table] = true
		for _, id := range f.filter.IDs {
			if strings.HasPrefix(e.ID, strings.ToLower(id)) {
				matches[id]++
			}
		}
	}
	for _, id := range f.filter.IDs {
		switch matches[id] {
		case 0:
			return usagef("no entry has the id %q; see: eds dlq list", id)
		case 1:
		default:
			return usagef("%d entries begin with %q; use more digits of the id, or select entries by flags", matches[id], id)
		}
	}
	if f.filter.Table == "" || tables[f.filter.Table] {
		return nil
	}
	delete(tables, "")
	if len(tables) == 0 {
		return usagef("--table: there is no entry of table %q, nor of any other", f.filter.Table)
	}
	return usagef(
		"--table: there is no entry of table %q; there are entries of %s", f.filter.Table,
		sink.Names(slices.Sorted(maps.Keys(tables))),
	)
}

// entryReport describes an entry in JSON output.
type entryReport struct {
	ID          string         `json:"id"`
	State       dlq.EntryState `json:"state"`
	Rejected    time.Time      `json:"rejected"`
	Table       string         `json:"table,omitempty"`
	Key         string         `json:"key,omitempty"`
	Operation   string         `json:"operation,omitempty"`
	Stage       string         `json:"stage"`
	Reason      string         `json:"reason"`
	Sequence    uint64         `json:"sequence,omitempty"` // stream sequence of the message
	Subject     string         `json:"subject,omitempty"`
	EventID     string         `json:"eventId,omitempty"`
	Destination string         `json:"destination,omitempty"`
	Job         string         `json:"job,omitempty"`
	File        string         `json:"file,omitempty"`
	Line        int64          `json:"line,omitempty"`
	Size        int            `json:"size"`              // size of the payload in bytes
	Payload     string         `json:"payload,omitempty"` // the payload as text; only for show
	Bytes       []byte         `json:"bytes,omitempty"`   // the payload if it is not text; only for show
}

// reportEntry returns the report for an entry. The entry must contain its payload, because the key
// is read from the payload. The report does not contain the payload. If the parameter private is
// true, the report has a hash in place of the key.
func reportEntry(e *dlq.Entry, private bool) entryReport {
	r := entryReport{
		ID: e.ID, State: e.State, Rejected: e.Time.UTC(), Table: e.Table, Operation: e.Operation, Stage: e.Stage, Reason: e.Reason,
		Sequence: e.Sequence, Subject: e.Subject, EventID: e.EventID, Destination: e.Destination,
		Job: e.Job, File: e.File, Line: e.Line, Size: e.Size,
	}
	if len(e.Keys) == 0 {
		return r
	}
	var event cdc.Event
	if cdc.NewDecoder().Decode(&event, e.Payload, e.Encoding) != nil && e.Stage == dlq.StageImport {
		event.After = e.Payload // a line that is not a row
	}
	if r.Key = change.KeyText(&event); private && r.Key != "" {
		sum := sha256.Sum256([]byte(r.Key))
		r.Key = hex.EncodeToString(sum[:])[:12]
	}
	return r
}

func newDeadLetterList(p Process, common *config.CommonFlags) *cobra.Command {
	var private bool
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the entries with their reasons", Args: noArgs,
		Long: `Lists the entries in the order of the stream, each in one of three states:

    waiting     the destination lacks it
    unknown     the destination lacks it or has something newer: eds could read no key,
                or does not know which of its rows changed since
    superseded  the destination has something newer for each of its rows; eds deletes it
                after a week

eds keeps waiting and unknown entries for 90 days. After that, or if the queue needs more
than 256 MiB, their tables are incomplete, and need an import.`,
	}
	flags := bindFilter(cmd)
	cmd.Flags().BoolVar(&private, "private", false, "print hashes instead of the rows' keys")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		filter, err := flags.resolve(nil)
		if err != nil {
			return err
		}
		return withQueue(p, common, look, func(_ *setup, q *dlq.Queue) error {
			if err := flags.check(q); err != nil {
				return err
			}
			all := []entryReport{}
			for e, err := range q.Read(filter) {
				if err != nil {
					return err
				}
				all = append(all, reportEntry(&e, private))
			}
			if flags.asJSON {
				return printJSON(out(cmd), all)
			}
			if len(all) == 0 {
				text := "The dead-letter queue is empty."
				if len(flags.changedFlags()) > 0 {
					text = "No entry matches the flags."
				}
				_, err := fmt.Fprintln(out(cmd), text)
				return err
			}
			digits, err := q.Short()
			if err != nil {
				return err
			}
			return printEntries(out(cmd), all, digits)
		})
	}
	return cmd
}

// printEntries prints a table of entries. It cuts the ids of the entries to the given number of
// digits.
func printEntries(w io.Writer, all []entryReport, digits int) error {
	destinations := make(map[string]bool)
	unknown := make(map[string]bool) // tables that have entries of unknown rows
	for i := range all {
		destinations[all[i].Destination] = true
		if all[i].State == dlq.Unknown {
			unknown[all[i].Table] = true
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(destination string, cells ...string) {
		if len(destinations) > 1 {
			cells = slices.Insert(cells, len(cells)-1, destination)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	row("DESTINATION", "ID", "STATE", "REJECTED", "TABLE", "KEY", "OPERATION", "STAGE", "REASON")
	for i := range all {
		e := &all[i]
		row(dash(visible(e.Destination)), e.ID[:digits], string(e.State), e.Rejected.Format(time.RFC3339),
			dash(short(visible(e.Table))), dash(short(visible(e.Key))),
			dash(short(visible(e.Operation))), short(visible(e.Stage)), visible(e.Reason))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(unknown) == 0 {
		return nil
	}
	// The operator may copy the command into a shell, and the subject of a message may contain
	// any text as the table's name.
	maps.DeleteFunc(unknown, func(table string, _ bool) bool { return !plainTable.MatchString(table) })
	command := "eds import"
	if len(unknown) > 0 {
		command += " --only " + strings.Join(slices.Sorted(maps.Keys(unknown)), ",")
	}
	_, err := fmt.Fprintf(
		w, "\nFor unknown entries, eds does not know which rows the destination lacks. An import resolves them: %s\n",
		command,
	)
	return err
}

// plainTable matches table names that have no special meaning in a shell.
var plainTable = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

// visible replaces all characters that control a terminal, are invisible, or change the display
// order of other characters.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if hidden(r) {
			return '\ufffd'
		}
		return r
	}, strings.ToValidUTF8(text, "\ufffd"))
}

func hidden(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }

// short truncates text to 40 characters, including a final "...".
func short(text string) string {
	const most = 40
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-3]) + "..."
	}
	return text
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newDeadLetterShow(p Process, common *config.CommonFlags) *cobra.Command {
	var asJSON, private bool
	cmd := &cobra.Command{Use: "show ID", Short: "Print one entry with its payload"}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&private, "private", false, "print a hash instead of the row's key, and no payload")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 || strings.TrimSpace(args[0]) == "" {
			return usagef("%s needs the id of one entry, or its first digits; see: eds dlq list", cmd.CommandPath())
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withQueue(p, common, look, func(_ *setup, q *dlq.Queue) error {
			e, err := q.Show(args[0])
			if errors.Is(err, dlq.ErrNotFound) {
				return usagef("no entry has the id %q; see: eds dlq list", args[0])
			}
			if err != nil {
				return err
			}
			r := reportEntry(&e, private)
			if asJSON {
				if private {
					return printJSON(out(cmd), r)
				}
				if text, err := cdc.NewDecoder().Text(e.Payload, e.Encoding); err == nil && utf8.Valid(text) {
					r.Payload = string(text)
				} else {
					r.Bytes = e.Payload
				}
				return printJSON(out(cmd), r)
			}
			return printEntry(out(cmd), &r, &e, private)
		})
	}
	return cmd
}

func printEntry(w io.Writer, r *entryReport, e *dlq.Entry, private bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	for _, line := range [][2]string{
		{"id", r.ID},
		{"state", string(r.State)},
		{"rejected", r.Rejected.Format(time.RFC3339)},
		{"table", r.Table},
		{"key", r.Key},
		{"operation", r.Operation},
		{"stage", r.Stage},
		{"reason", r.Reason},
		{"sequence", strconv.FormatUint(r.Sequence, 10)},
		{"subject", r.Subject},
		{"event", r.EventID},
		{"destination", r.Destination},
		{"job", r.Job},
		{"file", r.File},
		{"line", strconv.FormatInt(r.Line, 10)},
		{"encoding", e.Encoding},
	} {
		if line[1] != "" && line[1] != "0" {
			fmt.Fprintf(t, "%s:\t%s\n", line[0], visible(line[1]))
		}
	}
	err := t.Flush()
	if err == nil && !private {
		_, err = fmt.Fprintf(w, "\n%s\n", strings.TrimSuffix(legible(e), "\n"))
	}
	return err
}

// legible returns the payload of an entry as JSON. A payload that cannot be decoded is returned
// unchanged if it is printable, and as a hexadecimal dump otherwise.
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
	lines := bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	return utf8.Valid(text) && !bytes.ContainsFunc(lines, func(r rune) bool { return hidden(r) && r != '\n' && r != '\t' })
}

func newDeadLetterDrop(p Process, common *config.CommonFlags) *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "drop [ID...]", Short: "Delete entries"}
	flags := bindFilter(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "drop every entry that the other flags select")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 && !all {
			return usagef("give the ids of the entries to drop, or pass --all")
		}
		filter, err := flags.resolve(args)
		if err != nil {
			return err
		}
		return withQueue(p, common, look, func(_ *setup, q *dlq.Queue) error {
			if err := flags.check(q); err != nil {
				return err
			}
			n, err := q.Drop(filter)
			if err != nil {
				return err
			}
			if flags.asJSON {
				return printJSON(out(cmd), struct {
					Dropped int `json:"dropped"`
				}{n})
			}
			_, err = fmt.Fprintf(out(cmd), "%d dropped\n", n)
			return err
		})
	}
	return cmd
}
