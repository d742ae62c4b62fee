package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/control"
	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

func newStatus(p Process, common *config.CommonFlags) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the state of the running server",
		Long: `Shows the state of the server that runs with the data directory: tables that are not
complete, each with the command that repairs it; lag and rate, the reason if it waits,
its last error, its dead letters, and one line per table. The exit code is 0 if the
server is healthy, else 1.`,
		Example: "  eds status\n  eds status --json",
		Args:    noArgs,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := begin(p, common, "")
		if err != nil {
			return err
		}
		defer s.close()
		r, err := control.NewClient(s.common.DataDir).Status(cmd.Context())
		if err != nil {
			return noAnswer(s.common.DataDir, err)
		}
		if asJSON {
			err = printJSON(out(cmd), r)
		} else {
			err = printStatus(out(cmd), r)
		}
		if err == nil && len(r.Health.Reasons) > 0 {
			err = printedError{errors.New("the server is not healthy")}
		}
		return err
	}
	return cmd
}

func printStatus(w io.Writer, r server.Report) error {
	if err := printNotOK(w, r.Tables); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, format string, args ...any) {
		fmt.Fprintf(t, "%s\t"+format+"\n", append([]any{name}, args...)...)
	}
	row("server", "%s, eds %s, pid %d, up %v", orNone(r.ServerID), r.Version, r.PID, time.Since(r.Started).Round(time.Second))
	row("destination", "%s", orNone(r.Destination))
	row("health", "%s", r.Health.Status)
	for _, reason := range r.Health.Reasons {
		row("", "%s: %s (for %v)", reason.Condition, reason.Message, time.Since(reason.Since).Round(time.Second))
	}
	for _, w := range r.Health.Warnings {
		row("warning", "%s (for %v)", w.Message, time.Since(w.Since).Round(time.Second))
	}
	switch {
	case r.Reason == "":
		row("state", "%s", r.State)
	case strings.HasPrefix(r.Reason, r.State):
		row("state", "%s", r.Reason) // "waiting for ..."
	default:
		row("state", "%s: %s", r.State, r.Reason)
	}
	if r.ImportID != "" {
		row("import", "%s; to watch it: eds import --watch %s", cmp.Or(r.Import, "not started yet"), r.ImportID)
	}
	row("lag", "%s, %s", lag(r.LagSeconds), pending(r.Pending))
	row("rate", "%.0f events/s, %d applied, %d skipped", r.Rate, r.Applied, r.Skipped)
	row("last applied", "%s", ago(r.LastApplied))
	row("dead letters", "%s", deadLetters(r))
	if r.LastError != "" {
		row("last error", "%s: %s", ago(r.LastErrorAt), r.LastError)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printChanged(w, r.Tables)
}

// deadLetters formats the numbers of dead letters.
func deadLetters(r server.Report) string {
	text := strconv.Itoa(r.DeadLetters)
	if r.DeadUnknown > 0 {
		text += fmt.Sprintf(", %d of unknown rows", r.DeadUnknown)
	}
	if r.DeadOthers > 0 {
		text += fmt.Sprintf("; other destinations lack %d", r.DeadOthers)
	}
	if r.DeadLetters+r.DeadOthers > 0 {
		text += "; see: eds dlq list"
	}
	return text
}

// printNotOK prints the tables that are not ok and the gaps that can be accepted. If all tables
// are ok, it prints nothing.
func printNotOK(w io.Writer, tables map[string]server.TableReport) error {
	var names, gaps []string
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		if table := tables[name]; table.State != string(sink.OK) {
			names = append(names, name)
			if table.Gap != "" && !table.Accepted && !slices.Contains(gaps, table.Gap) {
				gaps = append(gaps, table.Gap)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "table\tstate\tsince\treason\tcommand")
	for _, name := range names {
		table := tables[name]
		state := table.State
		if table.Accepted {
			state += ", accepted"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", name, state, ago(table.Since), table.Reason, cmp.Or(table.Command, "(none needed)"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, gap := range gaps {
		fmt.Fprintf(w, "To accept gap %s as it is: eds accept-gap %s\n", gap, gap)
	}
	_, err := fmt.Fprintln(w)
	return err
}

// printChanged prints the number of changes for each changed table since the server was
// started.
func printChanged(w io.Writer, tables map[string]server.TableReport) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	changed := false
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		table := tables[name]
		if table.LastApplied.IsZero() {
			continue
		}
		if !changed {
			changed = true
			fmt.Fprintln(w)
			fmt.Fprintln(t, "table\tinserts\tupdates\tdeletes\tlast applied\t")
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%s\t\n", name, table.Inserts, table.Updates, table.Deletes, ago(table.LastApplied))
	}
	return t.Flush()
}

func lag(seconds *float64) string {
	if seconds == nil {
		return "not known"
	}
	return time.Duration(*seconds * float64(time.Second)).Round(time.Millisecond).String()
}

func pending(events *uint64) string {
	if events == nil {
		return "pending events not known"
	}
	return fmt.Sprintf("%d events pending", *events)
}

func orNone(text string) string {
	if text == "" {
		return "none yet"
	}
	return text
}

// ago formats the time that has passed since t. If t is zero, it returns "never".
func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}

func newHealth(p Process, common *config.CommonFlags) *cobra.Command {
	port, host := 0, ""
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Check the health of the server on this machine",
		Long: `Queries the health port of a server on this machine, for the health checks of
containers. The exit code is 0 if the server is healthy, else 1.`,
		Example: "  eds health\n  eds health --port 9090",
		Args:    noArgs,
	}
	cmd.Flags().IntVar(&port, "port", 0, "`port` of health and metrics (environment: PORT; default 8080)")
	cmd.Flags().StringVar(&host, "host", "localhost", "`address` of the port")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := begin(p, common, "")
		if err != nil {
			return err
		}
		defer s.close()
		if text, _ := p.Lookup("PORT"); port == 0 && text != "" {
			if port, err = strconv.Atoi(text); err != nil {
				return usagef("PORT in the environment: want a number")
			}
		}
		if port == 0 {
			port = config.DefaultPort
		}
		return askHealth(cmd.Context(), out(cmd), net.JoinHostPort(host, strconv.Itoa(port)))
	}
	return cmd
}

func askHealth(ctx context.Context, w io.Writer, address string) error {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{Proxy: nil}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return usageError{err}
	}
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("query the health of the server at %s: %w", address, errors.Unwrap(err))
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the health of the server at %s: %w", address, err)
	}
	var report telemetry.Report
	if json.Unmarshal(text, &report) != nil || report.Status == "" {
		return fmt.Errorf("the program at %s is not a server of eds; set the server's port with --port", address)
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return printedError{errors.New("the server is not healthy")}
	}
	return nil
}
