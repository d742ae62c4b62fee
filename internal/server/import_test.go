package server

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// vendors returns the columns of a table of the shop that these tests read.
func vendors(t *testing.T) *schema.Table {
	t.Helper()
	table, err := schema.New("vendor", "1", []string{"id"},
		[]schema.Column{{Name: "id", Type: schema.String}, {Name: "companyId", Type: schema.String}})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// vendorsOf counts the vendors in a destination by their company.
func vendorsOf(t *testing.T, url string) map[string]int {
	t.Helper()
	_, s, err := drivers.Open(t.Context(), url, nil, sink.Env{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.WithoutCancel(t.Context()))
	table, counts := vendors(t), make(map[string]int)
	for row, err := range s.Reader.Read(t.Context(), table) {
		if err != nil {
			t.Fatal(err)
		}
		counts[strings.Trim(string(row.Value(table.Slot([]byte("companyId")))), `"`)]++
	}
	return counts
}

// importFor runs a server into a destination, has HQ request an import, and returns the
// response.
func importFor(t *testing.T, h *devhq.HQ, url string, change func(c *Config)) map[string]any {
	t.Helper()
	session := make(chan string, 1)
	_, stop := start(t, h, func(c *Config) {
		c.Options.URL = config.NewSecret(url)
		c.SessionBegan = func(id string) { session <- id }
		change(c)
	})
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	id := <-session
	if _, err := h.AwaitReceived(ctx, id, "heartbeat", 0); err != nil {
		t.Fatal(err)
	}
	if err := h.Notify(ctx, id, "import", map[string]any{"backfill": true}); err != nil {
		t.Fatal(err)
	}
	response, err := h.AwaitReceived(ctx, id, "import-response", 0)
	if err != nil {
		t.Fatal(err)
	}
	return response.Data
}

func unlimited(*Config) {}

// TestImport_ReplacesTablesWhoseRowsAreThisServers: it removes rows that the source lacks.
func TestImport_ReplacesTablesWhoseRowsAreThisServers(t *testing.T) {
	h := startHQ(t, devhq.Options{})
	url := "sqlite://" + filepath.Join(t.TempDir(), "shop.db")
	apply(t, url, h, h.Shop().Companies(), `{"id":"stale","companyId":"none"}`)
	if answer := importFor(t, h, url, unlimited); answer["success"] != true {
		t.Errorf("the import failed: %v", answer)
	}
	if counts := vendorsOf(t, url); counts["none"] != 0 || len(counts) == 0 {
		t.Errorf("the vendors of companies are %v", counts)
	}
}

// TestImport_MergesIfTheDestinationHoldsOtherCompanies: an export of some companies does not
// remove the rows of others.
func TestImport_MergesIfTheDestinationHoldsOtherCompanies(t *testing.T) {
	h := startHQ(t, devhq.Options{})
	companies := h.Shop().Companies()
	for name, change := range map[string]func(c *Config){
		"limited by --companyIds": func(c *Config) { c.Options.CompanyIDs = companies[:1] },
		"limited by HQ": func(c *Config) {
			c.Options.HQSettings.APIKey = config.NewSecret(h.APIKey(devhq.KeyOptions{ServerID: "s", Companies: companies[:1]}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			url := "sqlite://" + filepath.Join(t.TempDir(), "shop.db")
			apply(t, url, h, companies, `{"id":"other","companyId":"`+companies[1]+`"}`)
			if answer := importFor(t, h, url, change); answer["success"] != true {
				t.Errorf("the import failed: %v", answer)
			}
			if counts := vendorsOf(t, url); counts[companies[0]] == 0 || counts[companies[1]] != 1 {
				t.Errorf("the vendors of companies are %v", counts)
			}
		})
	}
}

// TestImport_KeepsTablesThatHQHasNoRowsFor: an import of HQ does not empty a table, and its
// outcome says so.
func TestImport_KeepsTablesThatHQHasNoRowsFor(t *testing.T) {
	h := startHQ(t, devhq.Options{})
	h.Disturb(func(r *http.Request) devhq.Fault {
		if r.Method != http.MethodGet || !strings.HasPrefix(r.URL.Path, "/v3/export/bulk/") {
			return nil
		}
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { withoutVendors(t, next, w, r) })
		}
	})
	url := "sqlite://" + filepath.Join(t.TempDir(), "shop.db")
	apply(t, url, h, h.Shop().Companies(), `{"id":"kept","companyId":"here"}`)
	answer := importFor(t, h, url, unlimited)
	if message, _ := answer["message"].(string); answer["success"] != false ||
		!strings.Contains(message, "eds import --only vendor --allow-empty") {
		t.Errorf("HQ is answered %v", answer)
	}
	if counts := vendorsOf(t, url); counts["here"] != 1 || len(counts) != 1 {
		t.Errorf("the vendors of companies are %v", counts)
	}
}

// TestImport_NamesRowsThatCouldNotBeLoaded: the import has succeeded, and its outcome counts
// the rows that it left out.
func TestImport_NamesRowsThatCouldNotBeLoaded(t *testing.T) {
	h := startHQ(t, devhq.Options{})
	h.Disturb(func(r *http.Request) devhq.Fault {
		if !strings.HasPrefix(r.URL.Path, "/storage/exports/") || !strings.Contains(r.URL.Path, "-vendor-") {
			return nil
		}
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				recorded := httptest.NewRecorder()
				next.ServeHTTP(recorded, r)
				z := gzip.NewWriter(recorded.Body) // gzip members are one file
				if _, err := z.Write([]byte("[]\n")); err != nil || z.Close() != nil {
					t.Errorf("write an export file: %v", err)
				}
				_, _ = w.Write(recorded.Body.Bytes())
			})
		}
	})
	url := "sqlite://" + filepath.Join(t.TempDir(), "shop.db")
	answer := importFor(t, h, url, unlimited)
	if message, _ := answer["message"].(string); answer["success"] != true || !strings.HasPrefix(message, "1 row could not be loaded;") {
		t.Errorf("HQ is answered %v", answer)
	}
	if counts := vendorsOf(t, url); len(counts) == 0 {
		t.Error("the vendors were not imported")
	}
}

// withoutVendors removes the files of the vendors from the response to an export.
func withoutVendors(t *testing.T, next http.Handler, w http.ResponseWriter, r *http.Request) {
	recorded := httptest.NewRecorder()
	next.ServeHTTP(recorded, r)
	var body map[string]any
	if err := json.Unmarshal(recorded.Body.Bytes(), &body); err != nil {
		t.Error(err)
		return
	}
	if data, ok := body["data"].(map[string]any); ok {
		if vendor, ok := data["tables"].(map[string]any)["vendor"].(map[string]any); ok {
			vendor["urls"], vendor["cursor"] = []string{}, "1700000000000000000"
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(body); err != nil {
		t.Error(err)
	}
}

// apply writes a vendor into a destination like a server that follows companies.
func apply(t *testing.T, url string, h *devhq.HQ, companies []string, vendor string) {
	t.Helper()
	var table *schema.Table
	for _, text := range h.Shop().LatestSchemas() {
		decoded, err := schema.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		if decoded.Name == "vendor" {
			table = decoded
		}
	}
	env := sink.Env{Stream: "dbchange", Consumer: "eds-s", Filter: strings.Join(reconciler.Subjects(companies), " ")}
	_, s, err := drivers.Open(t.Context(), url, nil, env)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.WithoutCancel(t.Context()))
	if err := s.Apply(t.Context(), sinktest.NewChanges(t, 0).Put(table, vendor).Batch()); err != nil {
		t.Fatal(err)
	}
}

// TestWatch_WarnsOfDeadLetters until `eds dlq drop`, beside the server, drops them.
func TestWatch_WarnsOfDeadLetters(t *testing.T) {
	health := telemetry.NewHealth()
	s := newServer(t, startHQ(t, devhq.Options{}), health, func(*config.ServerSettings) {})
	dir := s.State
	warns := func(want ...string) {
		t.Helper()
		s.watchDeadLetters(time.Now())
		var got []string
		for _, w := range health.Report().Warnings {
			got = append(got, w.Message)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	warns()
	for i, keys := range [][]string{{"a"}, nil} {
		if err := s.dead.Put(dlq.Entry{Sequence: uint64(i), Destination: "d", Table: "order", Keys: keys, Time: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	warns("the destination lacks 2 changes or rows, which are dead letters, 1 of unknown rows; see: eds dlq list")
	if r := s.Report(); r.DeadLetters != 2 || r.DeadUnknown != 1 || r.Health.Status == telemetry.Unhealthy {
		t.Errorf("report: %+v", r)
	}
	if n, err := dlq.Look(dir.Path("dlq")).Drop(dlq.Filter{State: dlq.Unknown}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	warns("the destination lacks a change or row, which is a dead letter; see: eds dlq list")
	if n, err := dlq.Look(dir.Path("dlq")).Drop(dlq.Filter{}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	warns()
	if err := os.RemoveAll(dir.Path("dlq")); err != nil {
		t.Fatal(err)
	}
	warns(fmt.Sprintf("the dead-letter queue cannot be kept: stat %s: no such file or directory; "+
		"the server's user needs to read and write its directory", dir.Path("dlq")))
	if err := os.Mkdir(dir.Path("dlq"), 0o700); err != nil {
		t.Fatal(err)
	}
	warns()
}
