package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// longestSocket is how long the path of a socket may be on every system.
const longestSocket = 100

// statusSocket returns the path of the socket at which the server of a data
// directory says how it is.
func statusSocket(dataDir string) string {
	path := filepath.Join(dataDir, "eds.sock")
	if len(path) <= longestSocket {
		return path
	}
	sum := sha256.Sum256([]byte(dataDir))
	return filepath.Join(os.TempDir(), "eds-"+hex.EncodeToString(sum[:8])+".sock")
}

// listenStatus opens the socket. The caller holds the lock of the data
// directory, so what is there is left of a server that is gone.
func listenStatus(dataDir string) (net.Listener, error) {
	path := statusSocket(dataDir)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open the socket for eds status: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("open the socket for eds status: %w", err)
	}
	return listener, nil
}

// serveStatus answers until ctx ends.
func serveStatus(ctx context.Context, listener net.Listener, report func() server.Report) error {
	web := http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(report()) // who has gone away needs no answer
		}),
	}
	stop := context.AfterFunc(ctx, func() { _ = web.Close() })
	defer stop()
	if err := web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answer eds status: %w", err)
	}
	return nil
}

// askStatus asks the server of a data directory how it is.
func askStatus(ctx context.Context, dataDir string) (server.Report, error) {
	var r server.Report
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", statusSocket(dataDir))
		},
	}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://eds/", nil)
	if err != nil {
		return r, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return r, fmt.Errorf("no server answers for the data directory %s; start one with eds server, or name another with --data-dir: %w", dataDir, errors.Unwrap(err))
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&r); err != nil {
		return r, fmt.Errorf("read what the server says of itself: %w", err)
	}
	return r, nil
}

func newStatus(p Process, common *config.CommonFlags) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the running server is",
		Long: `Asks the server that runs with the data directory how it is: how far behind, how
fast, what it waits for, its last error, its dead letters, and a line a table.
The exit code is 0 where it is healthy, else 1.`,
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
		r, err := askStatus(cmd.Context(), s.common.DataDir)
		if err != nil {
			return err
		}
		if asJSON {
			err = printJSON(out(cmd), r)
		} else {
			err = printStatus(out(cmd), r)
		}
		if err == nil && len(r.Health.Reasons) > 0 {
			err = silentError{errors.New("the server is not healthy")}
		}
		return err
	}
	return cmd
}

func printStatus(w io.Writer, r server.Report) error {
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
	switch {
	case r.Reason == "":
		row("state", "%s", r.State)
	case strings.HasPrefix(r.Reason, r.State):
		row("state", "%s", r.Reason) // "waiting for ..."
	default:
		row("state", "%s: %s", r.State, r.Reason)
	}
	if r.Import != "" {
		row("import", "%s", r.Import)
	}
	row("lag", "%v, %d events pending", time.Duration(r.LagSeconds*float64(time.Second)).Round(time.Millisecond), r.Pending)
	row("rate", "%.0f events/s, %d applied, %d skipped", r.Rate, r.Applied, r.Skipped)
	row("last applied", "%s", ago(r.LastApplied))
	row("dead letters", "%d", r.DeadLetters)
	if r.LastError != "" {
		row("last error", "%s: %s", ago(r.LastErrorAt), r.LastError)
	}
	if err := t.Flush(); err != nil || len(r.Tables) == 0 {
		return err
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "table\tinserts\tupdates\tdeletes\tlast applied\t")
	for _, name := range slices.Sorted(maps.Keys(r.Tables)) {
		table := r.Tables[name]
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%s\t\n", name, table.Inserts, table.Updates, table.Deletes, ago(table.LastApplied))
	}
	return t.Flush()
}

func orNone(text string) string {
	if text == "" {
		return "none yet"
	}
	return text
}

// ago says how long ago t was.
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
		Short: "Ask the server on this machine whether it is healthy",
		Long: `Asks the health port of a server on this machine, for the health checks of
containers. The exit code is 0 where it is healthy, else 1.`,
		Example: "  eds health\n  eds health --port 9090",
		Args:    noArgs,
	}
	cmd.Flags().IntVar(&port, "port", 0, "`port` of health and metrics (environment: PORT; default 8080)")
	cmd.Flags().StringVar(&host, "host", "localhost", "`address` that they listen on")
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
		return fmt.Errorf("ask the server at %s for its health: %w", address, errors.Unwrap(err))
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the health of the server at %s: %w", address, err)
	}
	var report telemetry.Report
	if json.Unmarshal(text, &report) != nil || report.Status == "" {
		return fmt.Errorf("what answers at %s is no server of eds; name its port with --port", address)
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return silentError{errors.New("the server is not healthy")}
	}
	return nil
}
