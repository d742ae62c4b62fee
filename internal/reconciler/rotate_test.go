package reconciler

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// messageHandler sends the message of each log record to a channel.
type messageHandler struct {
	slog.Handler
	records chan<- string
}

func (h messageHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h messageHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h messageHandler) Handle(_ context.Context, r slog.Record) error {
	h.records <- r.Message
	return nil
}

func noVariables(string) (string, bool) { return "", false }

func TestRestoreDestination_WaitsForAFileOfADestinationThatHasWorked(t *testing.T) {
	endpoint := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(endpoint.Close)
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	file := filepath.Join(t.TempDir(), "secret")
	raw := config.NewSecret(endpoint.URL + "/in?secret=${file:" + file + "}")
	_, err = RestoreDestination(raw, config.Standard, noVariables, dir)
	if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "no such file") {
		t.Fatalf("at the first start: %v: %v", fault.Of(err), err)
	}
	if err := dir.RecordWorked(Named(endpoint.URL+"/in", noVariables).Identity); err != nil {
		t.Fatal(err)
	}
	d, err := RestoreDestination(raw, config.Standard, noVariables, dir)
	if err != nil {
		t.Fatal(err)
	}
	records, health := make(chan string, 100), telemetry.NewHealth()
	r, err := New(Config{
		State: dir, Logger: slog.New(messageHandler{slog.DiscardHandler, records}), Health: health,
		Lookup: noVariables, Tables: schema.NewCatalogue(nil, nil),
	}, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	opened := make(chan error)
	go func() {
		_, err := (&follower{r, StreamAccess{Consumer: "eds-test", Filters: Subjects([]string{"a"})}}).openDestination(t.Context(), d)
		opened <- err
	}()
	if message := <-records; message != "waiting for the destination, and trying again" {
		t.Errorf("it logs %q", message)
	}
	reasons := health.Report().Reasons
	if len(reasons) != 1 || reasons[0].Condition != "destination" || !strings.Contains(reasons[0].Message, "no such file") {
		t.Errorf("health reports %v", reasons)
	}
	if err := os.WriteFile(file, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
	if reasons := health.Report().Reasons; len(reasons) > 0 {
		t.Errorf("once the file exists, health reports %v", reasons)
	}
}

func TestAccess_RecordsThatTheDestinationHasWorked(t *testing.T) {
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	d, health := destination(t), telemetry.NewHealth()
	r, err := New(Config{State: dir, Logger: slog.New(slog.DiscardHandler), Health: health}, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	refusal := fault.Mark(fault.Refused, os.ErrPermission)
	classify := func() (fault.Class, int) {
		a, err := r.access(d, conditionDestination)
		if err != nil {
			t.Fatal(err)
		}
		class := fault.Of(a.Outcome(refusal))
		reasons := len(health.Report().Reasons)
		if err := a.Outcome(nil); err != nil {
			t.Error(err)
		}
		return class, reasons
	}
	if class, reasons := classify(); class != fault.Fatal || reasons != 0 {
		t.Errorf("before it has worked a refusal is %v, with %d reasons in health", class, reasons)
	}
	if class, reasons := classify(); class != fault.Transient || reasons != 1 {
		t.Errorf("after it has worked a refusal is %v, with %d reasons in health", class, reasons)
	}
	if reasons := health.Report().Reasons; len(reasons) > 0 {
		t.Errorf("once it works again, health reports %v", reasons)
	}
}

func TestParseForeignDestination_UsesNoSecretOfTheMachine(t *testing.T) {
	t.Setenv("PGPASSWORD", "")
	t.Setenv("PGPASSFILE", filepath.Join(t.TempDir(), "absent"))
	d, err := ParseForeignDestination(config.NewSecret(sink.Literal("postgres://eds@db.example.com/shop")), config.Standard, noVariables)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.expand(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGPASSWORD", "of this machine")
	if _, err := d.expand(); fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "sends a secret of this machine") {
		t.Errorf("once the machine has a password: %v", err)
	}
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("of this machine"), 0o600); err != nil {
		t.Fatal(err)
	}
	raw := config.NewSecret(sink.Literal("postgres://eds:p@db.example.com/${file:" + file + "}"))
	d, err = ParseForeignDestination(raw, config.Standard, noVariables)
	if err != nil {
		t.Fatal(err)
	}
	target, err := d.expand()
	if err != nil || strings.Contains(target.String(), "of this machine") || !strings.Contains(target.Path, "${file:") {
		t.Errorf("a placeholder of HQ becomes %v, %v", target, err)
	}
}
