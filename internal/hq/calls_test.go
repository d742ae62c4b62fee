package hq_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shirou/gopsutil/v4/host"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/schema"
)

var _ schema.Fetcher = (*hq.Client)(nil)

var errEnded = errors.New("ended")

func contextFor(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(t.Context(), d, errEnded)
}

// TestClient_SendsTheRequestsOfTheProtocol checks the contract of the protocol: method, path,
// headers and body, byte by byte.
func TestClient_SendsTheRequestsOfTheProtocol(t *testing.T) {
	key := jwt(`{}`)
	ok := func(data string) string { return `{"success":true,"data":` + data + `}` }
	for name, c := range map[string]struct {
		answer string
		call   func(ctx context.Context, c *hq.Client) (any, error)
		want   seen
		data   any
	}{
		"enroll": {
			ok(`{"token":"t","serverId":"s"}`),
			func(ctx context.Context, c *hq.Client) (any, error) { return c.Enroll(ctx, "P/1 2") },
			seen{Method: "GET", Path: "/v3/eds/internal/enroll/P%2F1%202"},
			hq.Enrolment{Token: "t", ServerID: "s"},
		},
		"end a session": {
			ok(`{"url":"u","errorUrl":"e"}`),
			func(ctx context.Context, c *hq.Client) (any, error) { return c.EndSession(ctx, "s1", true) },
			seen{Method: "POST", Path: "/v3/eds/internal/s1", Body: `{"errored":true}`},
			hq.SessionEnd{URL: "u", ErrorURL: "e"},
		},
		"log url": {
			ok(`{"url":"u"}`),
			func(ctx context.Context, c *hq.Client) (any, error) { return c.LogURL(ctx, "s1") },
			seen{Method: "POST", Path: "/v3/eds/internal/s1/log", Body: `{}`},
			"u",
		},
		"latest schemas": {
			`{"Order":{"table":"order"}}`,
			func(ctx context.Context, c *hq.Client) (any, error) { return c.LatestSchemas(ctx) },
			seen{Method: "GET", Path: "/v3/schema"},
			map[string]json.RawMessage{"Order": json.RawMessage(`{"table":"order"}`)},
		},
		"a schema version": {
			`{"table":"order"}`,
			func(ctx context.Context, c *hq.Client) (any, error) { return c.Schema(ctx, "Order", "v/1") },
			seen{Method: "GET", Path: "/v3/schema/Order/v%2F1"},
			json.RawMessage(`{"table":"order"}`),
		},
		"a schema version in an envelope": {
			ok(`{"table":"order"}`),
			func(ctx context.Context, c *hq.Client) (any, error) { return c.Schema(ctx, "Order", "1") },
			seen{Method: "GET", Path: "/v3/schema/Order/1"},
			json.RawMessage(`{"table":"order"}`),
		},
		"start an export of everything": {
			ok(`{"jobId":"j"}`),
			func(ctx context.Context, c *hq.Client) (any, error) { return c.StartExport(ctx, hq.ExportRequest{}) },
			seen{Method: "POST", Path: "/v3/export/bulk", Body: `{}`},
			"j",
		},
		"start an export": {
			ok(`{"jobId":"j"}`),
			func(ctx context.Context, c *hq.Client) (any, error) {
				return c.StartExport(ctx, hq.ExportRequest{
					TimeOffset: 1712345678901, CompanyIDs: []string{"c"}, LocationIDs: []string{"l"}, Tables: []string{"t"},
				})
			},
			seen{
				Method: "POST", Path: "/v3/export/bulk",
				Body: `{"timeOffset":1712345678901,"companyIds":["c"],"locationIds":["l"],"tables":["t"]}`,
			},
			"j",
		},
		"the state of an export": {
			ok(`{"completed":true,"tables":{"t":{"status":"Completed","urls":["u"],"cursor":"1712345678901234567"},` +
				`"v":{"status":"Failed","error":"e"}},"x":1}`),
			func(ctx context.Context, c *hq.Client) (any, error) { return c.ExportStatus(ctx, "j") },
			seen{Method: "GET", Path: "/v3/export/bulk/j"},
			hq.Export{Completed: true, Tables: map[string]hq.ExportTable{
				"t": {Status: "Completed", URLs: []string{"u"}, Cursor: "1712345678901234567"}, "v": {Status: "Failed", Error: "e"},
			}},
		},
	} {
		client, f := answering(t, 200, c.answer)
		got, err := c.call(t.Context(), client)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.want.Authorization, c.want.ContentType, c.want.Agent = "Bearer "+key, "application/json", "Shopmonkey EDS Server/1.2.3"
		if diff := cmp.Diff([]seen{c.want}, f.seen); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if diff := cmp.Diff(c.data, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestStartSession_SendsTheRequestOfTheProtocol(t *testing.T) {
	full := hq.SessionStart{
		Version: "1", Hostname: "h", IPAddress: "10.0.0.1", MachineID: "m",
		OSInfo:   hq.OSInfo{Host: &host.InfoStat{Hostname: "h"}, NumCPU: 2, GoVersion: "go1"},
		Driver:   &hq.SessionDriver{ID: "postgres", Name: "PostgreSQL", Description: "d", URL: "postgres://u:***@h"},
		ServerID: "s", CompanyIDs: []string{"c"},
	}
	for name, c := range map[string]struct {
		start hq.SessionStart
		want  string
	}{
		"everything": {full, `{"version":"1","hostname":"h","ipAddress":"10.0.0.1","machineId":"m",` +
			`"osinfo":{"host":{"hostname":"h","uptime":0,"bootTime":0,"procs":0,"os":"","platform":"","platformFamily":"",` +
			`"platformVersion":"","kernelVersion":"","kernelArch":"","virtualizationSystem":"","virtualizationRole":"","hostId":""},` +
			`"num_cpu":2,"go_version":"go1"},` +
			`"driver":{"id":"postgres","name":"PostgreSQL","description":"d","url":"postgres://u:***@h"},` +
			`"serverId":"s","companyIds":["c"]}`},
		"nothing": {hq.SessionStart{}, `{"version":"","hostname":"","ipAddress":"","machineId":"",` +
			`"osinfo":{"host":null,"num_cpu":0,"go_version":""},"serverId":""}`},
	} {
		client, f := answering(t, 200, `{"success":true,"data":{"sessionId":"s1"}}`)
		s, err := client.StartSession(t.Context(), c.start)
		if err != nil || s.ID != "s1" || s.Credential.ServerID() != "dev" {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
		if diff := cmp.Diff(c.want, f.seen[0].Body); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestStartSession_AwaitsASessionThatHQStarts ends the context of the call while HQ starts the
// session. Without the session's id, the caller could not end the session.
func TestStartSession_AwaitsASessionThatHQStarts(t *testing.T) {
	for name, answers := range map[string]bool{"an answer": true, "no answer": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil }}
				defer transport.CloseIdleConnections()
				ctx, cancel := context.WithCancelCause(t.Context())
				go func() {
					defer far.Close()
					if _, err := http.ReadRequest(bufio.NewReader(far)); err != nil {
						t.Error(err)
					}
					synctest.Wait()
					cancel(errEnded)
					time.Sleep(9 * time.Second)
					if !answers {
						_, _ = io.Copy(io.Discard, far) // until the client leaves
						return
					}
					answer := `{"success":true,"data":{"sessionId":"s1"}}`
					_, _ = fmt.Fprintf(far, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
				}()
				c := hq.New(hq.Options{BaseURL: "http://127.0.0.1", HTTP: &http.Client{Transport: transport}}).Patient()
				began := time.Now()
				s, err := c.StartSession(ctx, hq.SessionStart{})
				if answers && (err != nil || s.ID != "s1") {
					t.Errorf("got session %q, %v", s.ID, err)
				}
				if !answers && (!errors.Is(err, errEnded) || time.Since(began) != 10*time.Second) {
					t.Errorf("got %v after %v", err, time.Since(began))
				}
			})
		})
	}
}

func TestNotFound_ReportsUnknownObjects(t *testing.T) {
	c, _ := answering(t, 404, `{"success":false,"message":"no such code"}`)
	_, err := c.Enroll(t.Context(), "P1")
	if !hq.NotFound(err) || !strings.Contains(err.Error(), "the code is unknown or was used already") {
		t.Errorf("enroll: %v", err)
	}
	_, err = c.Schema(t.Context(), "o", "1")
	if !hq.NotFound(err) || fault.Of(err) != fault.Poison {
		t.Errorf("schema: %v, %v", err, fault.Of(err))
	}
	_, err = c.ExportStatus(t.Context(), "j")
	if !hq.NotFound(err) || fault.Of(err) != fault.Fatal {
		t.Errorf("export: %v, %v", err, fault.Of(err))
	}
}

func TestAwaitSession_WaitsForTheOtherServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{t: t, answer: func(n int, w http.ResponseWriter, _ *http.Request) {
			if n < 4 {
				w.WriteHeader(http.StatusConflict)
				return
			}
			_, _ = io.WriteString(w, `{"success":true,"data":{"sessionId":"s1"}}`)
		}}
		waits := 0
		s, err := f.client(hq.Key{}).AwaitSession(t.Context(), hq.SessionStart{}, func(err error, wait time.Duration) {
			waits++
			if !hq.Conflict(err) || wait != 5*time.Second {
				t.Errorf("waits %v after %v", wait, err)
			}
		})
		if err != nil || s.ID != "s1" || waits != 3 {
			t.Errorf("%+v, %v, %d waits", s, err, waits)
		}
		if diff := cmp.Diff([]time.Duration{0, 5 * time.Second, 10 * time.Second, 15 * time.Second}, f.at); diff != "" {
			t.Error(diff)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c, _ := answering(t, 409, ``)
		ctx, cancel := contextFor(t, time.Minute)
		defer cancel()
		if _, err := c.AwaitSession(ctx, hq.SessionStart{}, nil); !errors.Is(err, errEnded) {
			t.Errorf("got %v", err)
		}
	})
	c, f := answering(t, 500, ``)
	if _, err := c.AwaitSession(t.Context(), hq.SessionStart{}, nil); err == nil || len(f.seen) != 1 {
		t.Errorf("%v after %d requests", err, len(f.seen))
	}
}

// TestUpload_SendsTheWholeLogAgain checks that a retry after a failed attempt sends the whole log,
// without the API key.
func TestUpload_SendsTheWholeLogAgain(t *testing.T) {
	var got []seen
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, seen{
			r.Method, r.URL.Path, r.Header.Get("Authorization"),
			r.Header.Get("Content-Type"), r.Header.Get("User-Agent"), string(body),
		})
		if len(got) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	c := hq.New(hq.Options{BaseURL: "https://hq.test", Key: parseKey(t, `{}`), Version: "1"})
	defer c.Close()
	path, err := c.Upload(t.Context(), server.URL+"/logs/a.tgz?signature=x", bytes.NewReader([]byte("log")))
	if err != nil || path != "/logs/a.tgz" {
		t.Fatalf("%q, %v", path, err)
	}
	want := seen{Method: "PUT", Path: "/logs/a.tgz", ContentType: "application/x-tgz", Agent: "Shopmonkey EDS Server/1", Body: "log"}
	if diff := cmp.Diff([]seen{want, want}, got); diff != "" {
		t.Error(diff)
	}
}

func TestUpload_HidesTheURLInErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{t: t, broken: func(int) error { return errors.New("connection reset") }}
		for _, target := range []string{"https://store/path/SECRET?signature=SECRET", "https://user:SECRET@store:x/", "SECRET"} {
			_, err := f.client(hq.Key{}).Upload(t.Context(), target, strings.NewReader("log"))
			if err == nil || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("%s: %v", target, err)
			}
		}
	})
}

func TestDescribeHost_AlwaysKnowsTheBasics(t *testing.T) {
	var start hq.SessionStart
	hq.DescribeHost(t.Context(), &start)
	if start.OSInfo.Host == nil || start.OSInfo.NumCPU < 1 || !strings.HasPrefix(start.OSInfo.GoVersion, "go") {
		t.Errorf("%+v", start.OSInfo)
	}
	if start.OSInfo.Host.HostID != start.MachineID {
		t.Errorf("the host's id is %q, not the hash %q", start.OSInfo.Host.HostID, start.MachineID)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	hq.DescribeHost(ended, &start) // with an ended context, DescribeHost may determine less, but must not fail
	if start.OSInfo.Host == nil {
		t.Error("no host")
	}
}
