package control_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/control"
	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// scripted is a Handler that calls its fields. A nil field is not called.
type scripted struct {
	report  func() server.Report
	request func(id, identity string, o snapshot.Options) error
	watch   func(ctx context.Context, id string, observe func(snapshot.TableProgress, snapshot.Totals)) (snapshot.Report, error)
	cancel  func(id string) error
	accept  func(id, table string) ([]string, error)

	verified func(identity string, v server.Verification) error
}

func (s scripted) Report() server.Report { return s.report() }

func (s scripted) RequestImport(id, identity string, o snapshot.Options) error {
	return s.request(id, identity, o)
}

func (s scripted) WatchImport(
	ctx context.Context, id string, observe func(snapshot.TableProgress, snapshot.Totals),
) (snapshot.Report, error) {
	return s.watch(ctx, id, observe)
}

func (s scripted) CancelImport(id string) error { return s.cancel(id) }

func (s scripted) Verified(identity string, v server.Verification) error {
	return s.verified(identity, v)
}

func (s scripted) AcceptGap(id, table string) ([]string, error) { return s.accept(id, table) }

// serve serves h until the test ends or stop is called.
func serve(t *testing.T, h control.Handler) (client *control.Client, dir string, stop func()) {
	t.Helper()
	dir = t.TempDir()
	listener, err := control.Listen(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- control.Serve(ctx, listener, h) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return control.NewClient(dir), dir, stop
}

// texts compares errors by their text.
var texts = cmp.Comparer(func(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) })

func TestStatus_ReturnsTheReportOfTheServer(t *testing.T) {
	at := time.Date(2026, 11, 30, 6, 0, 0, 0, time.UTC)
	want := server.Report{
		Version: "1.2.3", PID: 7, Started: at, State: "running", Rate: 2.5,
		Health: telemetry.Report{Status: telemetry.OK, Reasons: []telemetry.Reason{}, Warnings: []telemetry.Reason{}},
		Tables: map[string]server.TableReport{
			"order": {TableHealth: telemetry.TableHealth{State: "missing", Cause: "absent", Since: at}, Inserts: 4},
		},
	}
	client, _, _ := serve(t, scripted{report: func() server.Report { return want }})
	got, err := client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestImport_CarriesOptionsProgressAndOutcome(t *testing.T) {
	const importID = "0e1b6a52-5a7a-4d0c-9a57-0c1f4f1f8f11"
	type request struct {
		ID, Identity string
		Options      snapshot.Options
	}
	type step struct {
		Progress snapshot.TableProgress
		Totals   snapshot.Totals
	}
	options := control.Options{
		Only: []string{"order", "part"}, CompanyIDs: []string{"c"}, LocationIDs: []string{"l"},
		TimeOffset: time.Unix(1_800_000_000, 0).UTC(),
		SchemaOnly: true, NoDelete: true, AllowEmpty: true, Strict: true, Parallel: 3,
	}
	steps := []step{
		{
			snapshot.TableProgress{
				Table: "order", Phase: snapshot.Loading, Rows: 5, Bytes: 6, Downloaded: 7, TotalBytes: 8, Files: 1, TotalFiles: 2,
			},
			snapshot.Totals{Tables: 2, Rows: 5, Bytes: 6, Downloaded: 7, TotalBytes: 8, Unsized: 1},
		},
		{
			snapshot.TableProgress{Table: "part", Phase: snapshot.Failed, Err: errors.New("the database refuses it")},
			snapshot.Totals{Tables: 2, Done: 1, Failed: 1},
		},
	}
	report := snapshot.Report{
		Plan: snapshot.Plan{Job: "j", Mode: sink.Merge},
		Tables: []snapshot.TableReport{
			{Table: "order", Rows: 5, Refused: 2, Bytes: 6, Files: 2, Clock: cdc.Timestamp{Wall: 1 << 60, Logical: 9}, Earlier: true},
			{Table: "part", Kept: true, Final: true, Err: errors.New("no rows of it")},
		},
		Rows: 5, Refused: 2, Bytes: 6, Elapsed: time.Minute,
	}
	failed := &snapshot.TablesError{Failed: report.Tables[1:], Of: 2}
	var got request
	client, _, _ := serve(t, scripted{
		request: func(id, identity string, o snapshot.Options) error {
			got = request{id, identity, o}
			return nil
		},
		watch: func(_ context.Context, id string, observe func(snapshot.TableProgress, snapshot.Totals)) (snapshot.Report, error) {
			if id != importID {
				return snapshot.Report{}, errors.New("unknown import")
			}
			for _, s := range steps {
				observe(s.Progress, s.Totals)
			}
			return report, failed
		},
	})
	var seen []step
	observe := func(p snapshot.TableProgress, totals snapshot.Totals) { seen = append(seen, step{p, totals}) }
	var accepted string
	q := control.ImportRequest{ID: importID, Destination: "postgres://h/db", Options: options}
	outcome, err := client.Import(t.Context(), q, func(id string) { accepted = id }, observe)

	want := request{importID, "postgres://h/db", snapshot.Options{
		Only: options.Only, CompanyIDs: options.CompanyIDs, LocationIDs: options.LocationIDs, TimeOffset: options.TimeOffset,
		SchemaOnly: true, NoDelete: true, AllowEmpty: true, Strict: true, Parallel: 3,
	}}
	if diff := cmp.Diff(want, got); diff != "" || accepted != importID {
		t.Errorf("id %q: %s", accepted, diff)
	}
	if diff := cmp.Diff(steps, seen, texts); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(report, outcome, texts); diff != "" {
		t.Error(diff)
	}
	refused := new(control.Error)
	if !errors.As(err, &refused) || *refused != (control.Error{Message: failed.Error(), ExitCode: 1}) {
		t.Errorf("%v", err)
	}

	seen = nil
	again, err := client.WatchImport(t.Context(), importID, observe)
	if err == nil || cmp.Diff(report, again, texts) != "" || len(seen) != len(steps) {
		t.Errorf("watched again: %+v, %v, %d steps", again, err, len(seen))
	}
}

func TestError_HasTheExitCode(t *testing.T) {
	probe := &snapshot.ProbeError{Err: errors.New("no access for postgres://u:SECRET@h/db")}
	other := &server.OtherDestinationError{Destination: "postgres://h/db"}
	for name, test := range map[string]struct {
		requested, ended error
		want             control.Error
	}{
		"refused":           {errors.New("an import is under way"), nil, control.Error{Message: "an import is under way", ExitCode: 1}},
		"other destination": {other, nil, control.Error{Message: other.Error(), ExitCode: 3}},
		"probe":             {nil, probe, control.Error{Message: telemetry.MaskText(probe.Error()), ExitCode: 3}},
		"failed":            {nil, errors.New("the export failed"), control.Error{Message: "the export failed", ExitCode: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			client, _, _ := serve(t, scripted{
				request: func(string, string, snapshot.Options) error { return test.requested },
				watch: func(context.Context, string, func(snapshot.TableProgress, snapshot.Totals)) (snapshot.Report, error) {
					return snapshot.Report{}, test.ended
				},
			})
			_, err := client.Import(t.Context(), control.ImportRequest{}, func(string) {}, nil)
			got := new(control.Error)
			if !errors.As(err, &got) {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, *got); diff != "" || strings.Contains(got.Message, "SECRET") {
				t.Error(diff)
			}
		})
	}
}

func TestImport_ContinuesWithoutItsWatchers(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, 1)
	client, _, _ := serve(t, scripted{
		request: func(string, string, snapshot.Options) error { return nil },
		watch: func(ctx context.Context, _ string, _ func(snapshot.TableProgress, snapshot.Totals)) (snapshot.Report, error) {
			close(began)
			<-ctx.Done()
			ended <- ctx.Err()
			return snapshot.Report{}, ctx.Err()
		},
		// The import is not canceled: that would call a nil function.
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	go func() {
		<-began
		cancel(interrupted)
	}()
	_, err := client.Import(ctx, control.ImportRequest{}, func(string) {}, nil)
	if !errors.Is(err, interrupted) {
		t.Errorf("the client returns %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the watcher ended with %v", err)
	}
}

func TestServe_EndsWithItsWatchers(t *testing.T) {
	began := make(chan struct{})
	client, _, stop := serve(t, scripted{
		watch: func(ctx context.Context, _ string, _ func(snapshot.TableProgress, snapshot.Totals)) (snapshot.Report, error) {
			close(began)
			<-ctx.Done()
			return snapshot.Report{}, ctx.Err()
		},
	})
	ended := make(chan error, 1)
	go func() {
		_, err := client.WatchImport(t.Context(), "7", nil)
		ended <- err
	}()
	<-began
	stop()
	want := "watch the import: the server ended the connection; eds status says whether it continues"
	if err := <-ended; fmt.Sprint(err) != want {
		t.Errorf("%v", err)
	}
	if _, err := client.Status(t.Context()); !errors.Is(err, control.ErrNoServer) {
		t.Errorf("after the end: %v", err)
	}
}

func TestStatus_ReportsAServerThatCrashes(t *testing.T) {
	dir := t.TempDir()
	listener, err := control.Listen(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for name, crash := range map[string]func(net.Conn) error{
		"before it reads": func(net.Conn) error { return nil }, // resets the connection
		"before it answers": func(c net.Conn) error {
			_, err := http.ReadRequest(bufio.NewReader(c))
			return err
		},
		"in its answer": func(c net.Conn) error {
			_, err := http.ReadRequest(bufio.NewReader(c))
			_, werr := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
			return errors.Join(err, werr)
		},
	} {
		crashed := make(chan error, 1)
		go func() {
			c, err := listener.Accept()
			if err == nil {
				err = errors.Join(crash(c), c.Close())
			}
			crashed <- err
		}()
		if _, err := control.NewClient(dir).Status(t.Context()); !errors.Is(err, control.ErrConnectionLost) {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-crashed; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCancelImport_AndAcceptGap(t *testing.T) {
	var canceled string
	client, _, _ := serve(t, scripted{
		cancel: func(id string) error {
			canceled = id
			return nil
		},
		accept: func(id, table string) ([]string, error) {
			if id != "8f5b3f" {
				return nil, errors.New("there is no gap")
			}
			return []string{"order", table}, nil
		},
	})
	if err := client.CancelImport(t.Context(), "a b&c"); err != nil || canceled != "a b&c" {
		t.Errorf("canceled %q: %v", canceled, err)
	}
	tables, err := client.AcceptGap(t.Context(), "8f5b3f", "part")
	if diff := cmp.Diff([]string{"order", "part"}, tables); diff != "" || err != nil {
		t.Errorf("%v: %s", err, diff)
	}
	if _, err := client.AcceptGap(t.Context(), "x", ""); fmt.Sprint(err) != "there is no gap" {
		t.Errorf("%v", err)
	}
}

func TestVerified_ReportsTablesToTheServer(t *testing.T) {
	var got server.Verification
	client, _, _ := serve(t, scripted{verified: func(identity string, v server.Verification) error {
		if identity != "postgres://h/db" {
			return &server.OtherDestinationError{Destination: "postgres://h/db"}
		}
		got = v
		return nil
	}})
	want := server.Verification{
		Began: time.Date(2026, time.November, 22, 7, 0, 0, 0, time.UTC), Tables: []string{"order", "part"}, All: true,
	}
	if err := client.Verified(t.Context(), "postgres://h/db", want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := client.Verified(t.Context(), "sqlite:///x.db", want); err == nil {
		t.Error("another destination is accepted")
	}
}

func TestListen_IsForItsOwnerAndReplacesTheSocketOfACrash(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // the second finds the socket of the first
		listener, err := control.Listen(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		listener.(*net.UnixListener).SetUnlinkOnClose(false)
		file, err := os.Stat(filepath.Join(dir, "eds.sock"))
		if err != nil || file.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", file, err)
		}
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := control.NewClient(dir).Status(t.Context()); !errors.Is(err, control.ErrNoServer) {
		t.Errorf("a dead socket: %v", err)
	}
	long := filepath.Join(dir, strings.Repeat("d", 200))
	listener, err := control.Listen(t.Context(), long)
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
}

func TestServe_BoundsRequestsAndServesThePreviousRelease(t *testing.T) {
	_, dir, _ := serve(t, scripted{report: func() server.Report { return server.Report{PID: 7} }})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "eds.sock"))
	}
	web := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
	for name, test := range map[string]struct {
		method, path, body string
		want               int
	}{
		"previous release": {http.MethodGet, "/", "", http.StatusOK},
		"too long":         {http.MethodPost, "/import", `{"destination":"` + strings.Repeat("x", 1<<20) + `"}`, http.StatusBadRequest},
		"not JSON":         {http.MethodPost, "/accept-gap", "x", http.StatusBadRequest},
		"unknown":          {http.MethodGet, "/x", "", http.StatusNotFound},
		"not allowed":      {http.MethodPost, "/status", "", http.StatusMethodNotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), test.method, "http://eds"+test.path, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			response, err := web.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if response.StatusCode != test.want {
				t.Errorf("%s", response.Status)
			}
		})
	}
}
