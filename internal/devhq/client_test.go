package devhq

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/hq"
)

// edsClient returns a client as eds uses it, with an API key of h.
func edsClient(t *testing.T, h *HQ, key string) *hq.Client {
	t.Helper()
	o := hq.Options{BaseURL: h.APIURL(), Version: "1.2.3", Patience: 5 * time.Second}
	if key != "" {
		parsed, err := hq.ParseKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if parsed.Issuer() != h.APIURL() {
			t.Errorf("the key's issuer is %s, want %s", parsed.Issuer(), h.APIURL())
		}
		o.Key = parsed
	}
	c := hq.New(o)
	t.Cleanup(c.Close)
	return c
}

func TestClient_MakesAllCalls(t *testing.T) {
	h := begin(t, options(t))
	ctx := t.Context()
	code, err := h.NewEnrolment()
	if err != nil {
		t.Fatal(err)
	}
	enrolment, err := edsClient(t, h, "").Enroll(ctx, code)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := edsClient(t, h, "").Enroll(ctx, code); !hq.NotFound(err) {
		t.Errorf("a used code: %v", err)
	}
	c := edsClient(t, h, enrolment.Token)
	if latest, err := c.LatestSchemas(ctx); err != nil || !cmp.Equal(latest, h.Shop().LatestSchemas()) {
		t.Errorf("the latest schemas: %v, %v", latest, err)
	}
	if _, err := c.Schema(ctx, "Customer", "unknown"); !hq.NotFound(err) {
		t.Errorf("an unknown version: %v", err)
	}

	start := hq.SessionStart{Version: "1.2.3", ServerID: enrolment.ServerID}
	hq.DescribeHost(ctx, &start)
	session, err := c.StartSession(ctx, start)
	if err != nil {
		t.Fatal(err)
	}
	got := []any{session.Credential.ServerID(), session.Credential.SessionID(), session.Credential.CompanyIDs()}
	if diff := cmp.Diff([]any{enrolment.ServerID, session.ID, h.Shop().Companies()}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := c.StartSession(ctx, start); !hq.Conflict(err) {
		t.Errorf("a second session: %v", err)
	}
	url, err := c.LogURL(ctx, session.ID)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := c.Upload(ctx, url, bytes.NewReader([]byte("log")))
	if err != nil {
		t.Fatal(err)
	}
	if logs, err := h.Logs(); err != nil || len(logs) != 1 || logs[0].Path != stored {
		t.Errorf("logs are %+v, %v; the client stored %s", logs, err, stored)
	}
	if _, err := c.EndSession(ctx, session.ID, false); err != nil {
		t.Error(err)
	}

	job, err := c.StartExport(ctx, hq.ExportRequest{Tables: []string{"customer"}})
	if err != nil {
		t.Fatal(err)
	}
	var export hq.Export
	eventually(t, "the export is completed", func() bool {
		if export, err = c.ExportStatus(ctx, job); err != nil {
			t.Fatal(err)
		}
		return export.Completed
	})
	if diff := cmp.Diff(shopRows(h, "customer", nil, nil), downloadRows(t, export.Tables["customer"].URLs)); diff != "" {
		t.Error(diff)
	}
}

func TestClient_RetriesFaults(t *testing.T) {
	h := begin(t, options(t))
	faults := make(chan Fault, 3)
	faults <- Refuse(http.StatusTooManyRequests, time.Second)
	faults <- Refuse(http.StatusServiceUnavailable, 0)
	faults <- Cut(10)
	h.Disturb(func(*http.Request) Fault {
		select {
		case f := <-faults:
			return f
		default:
			return nil
		}
	})
	began := time.Now()
	if _, err := edsClient(t, h, h.APIKey(KeyOptions{})).LatestSchemas(t.Context()); err != nil {
		t.Error(err)
	}
	if len(faults) != 0 || time.Since(began) < time.Second {
		t.Errorf("the client succeeded after %s, with %d faults left", time.Since(began), len(faults))
	}
}

func TestClient_ReportsWhyAKeyIsRefused(t *testing.T) {
	h := begin(t, options(t))
	foreign := (&keyring{secret: []byte("another")}).issue(h.APIURL(), KeyOptions{}, time.Now())
	_, err := edsClient(t, h, foreign).LatestSchemas(t.Context())
	if _, ok := errors.AsType[*hq.Unauthorized](err); !ok || !strings.Contains(err.Error(), "was not issued by this HQ") {
		t.Errorf("a foreign key: %v", err)
	}
}
