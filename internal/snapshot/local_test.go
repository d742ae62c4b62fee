package snapshot_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/drivers/sqlite"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/verify"
)

// startHQ starts an HQ with an idle shop and exports of many files.
func startHQ(t *testing.T) *devhq.HQ {
	t.Helper()
	h, err := devhq.Start(t.Context(), devhq.Options{DataDir: t.TempDir(), Seed: 1, Customers: 200, FileRows: 150})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func clientOf(t *testing.T, token string) *hq.Client {
	t.Helper()
	key, err := hq.ParseKey(token)
	if err != nil {
		t.Fatal(err)
	}
	base, err := hq.BaseURL("", key)
	if err != nil {
		t.Fatal(err)
	}
	c := hq.New(hq.Options{BaseURL: base, Key: key, Version: "test"})
	t.Cleanup(c.Close)
	return c
}

// TestRun_ImportsAWholeShopIntoSQLite enrols, opens a session, and imports, while HQ refuses calls and
// breaks downloads.
func TestRun_ImportsAWholeShopIntoSQLite(t *testing.T) {
	h := startHQ(t)
	code, err := h.NewEnrolment()
	if err != nil {
		t.Fatal(err)
	}
	keyless := hq.New(hq.Options{BaseURL: h.APIURL(), Version: "test"})
	defer keyless.Close()
	enrolment, err := keyless.Enroll(t.Context(), code)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyless.Enroll(t.Context(), code); !hq.NotFound(err) {
		t.Errorf("a used code: %v", err)
	}
	client := clientOf(t, enrolment.Token)
	checkSession(t, h, client, enrolment.ServerID)

	var calls, cuts, files atomic.Int64
	h.Disturb(func(r *http.Request) devhq.Fault {
		if strings.HasPrefix(r.URL.Path, "/storage/") {
			if files.Add(1)%3 == 1 {
				cuts.Add(1)
				return devhq.Cut(3000)
			}
			return nil
		}
		if calls.Add(1)%2 == 1 {
			return devhq.Refuse(http.StatusServiceUnavailable, 0)
		}
		return nil
	})
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	target := "sqlite://" + t.TempDir() + "/shop.db"
	destination := openSQLite(t, target)
	catalogue := schema.NewCatalogue(client, dir)
	report, err := snapshot.Run(t.Context(), snapshot.Config{
		HQ: client, Schemas: catalogue, Sink: destination, State: dir, Destination: named(target), Present: client.Present,
		Poll:  retry.Backoff{Min: time.Millisecond, Max: 50 * time.Millisecond},
		Retry: retry.Backoff{Min: time.Millisecond, Max: 50 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	if cuts.Load() == 0 || report.Rows < 1000 {
		t.Errorf("%d rows, %d broken downloads", report.Rows, cuts.Load())
	}
	compare(t, h, client, catalogue, destination)
	clocks, err := dir.Snapshots(named(target))
	if err != nil || len(clocks) != len(report.Tables) {
		t.Errorf("%d snapshots of %d tables, %v", len(clocks), len(report.Tables), err)
	}
}

// checkSession checks that HQ accepts the description of this machine, and NATS the credential.
func checkSession(t *testing.T, h *devhq.HQ, client *hq.Client, serverID string) {
	t.Helper()
	start := hq.SessionStart{Version: "test", ServerID: serverID}
	hq.DescribeHost(t.Context(), &start)
	s, err := client.StartSession(t.Context(), start)
	if err != nil {
		t.Fatal(err)
	}
	if s.Credential.ServerID() != serverID || s.Credential.SessionID() != s.ID || len(s.Credential.CompanyIDs()) == 0 {
		t.Errorf(
			"the credential is of server %q, session %q, companies %q", s.Credential.ServerID(), s.Credential.SessionID(),
			s.Credential.CompanyIDs(),
		)
	}
	conn, err := nats.Connect(h.NATSURL(), s.Credential.Option())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := client.StartSession(t.Context(), start); !hq.Conflict(err) {
		t.Errorf("a second server: %v", err)
	}
	end, err := client.EndSession(t.Context(), s.ID, false)
	if err != nil {
		t.Fatal(err)
	}
	if path, err := client.Upload(t.Context(), end.URL, strings.NewReader("a log")); err != nil || path == "" {
		t.Errorf("upload: %q, %v", path, err)
	}
}

func openSQLite(t *testing.T, target string) sink.Sink {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Driver().Open(t.Context(), u, sink.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// compare compares every table of the destination with the shop.
func compare(t *testing.T, h *devhq.HQ, client *hq.Client, catalogue *schema.Catalogue, destination sink.Sink) {
	t.Helper()
	h.Disturb(nil)
	tables, err := catalogue.Latest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	shop := h.Shop().Snapshot()
	for name, table := range tables {
		r, err := verify.Compare(
			t.Context(), table, nil, verify.Rows(table, shop.Rows(name, nil, nil)),
			destination.(sink.Reader).Read(t.Context(), table),
		)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !r.Equal() {
			t.Error(r)
		}
	}
}

func TestDevHQ_RefusesInvalidKeys(t *testing.T) {
	h := startHQ(t)
	good := h.APIKey(devhq.KeyOptions{})
	for want, token := range map[hq.KeyProblem]string{
		hq.KeyExpired: h.APIKey(devhq.KeyOptions{Life: -time.Hour}),
		hq.KeyRefused: good[:strings.LastIndexByte(good, '.')+1] + "forged",
	} {
		_, err := clientOf(t, token).LatestSchemas(t.Context())
		var e *hq.Unauthorized
		if !errors.As(err, &e) || e.Problem != want {
			t.Errorf("%d: %v", want, err)
		}
	}
	if _, err := clientOf(t, good).LatestSchemas(t.Context()); err != nil {
		t.Error(err)
	}
}
