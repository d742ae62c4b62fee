package snapshot_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/state"
)

// Environment variables of the importing child process, which is killed.
const (
	childRoot = "EDS_TEST_SNAPSHOT_ROOT"
	childHQ   = "EDS_TEST_SNAPSHOT_HQ"
)

// child imports, and prints each step of the destination.
func child(root string) int {
	dir, err := state.Open(root + "/data")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer dir.Close()
	client := hq.New(hq.Options{BaseURL: os.Getenv(childHQ), Version: "test"})
	d := &destination{root: root + "/destination", clocks: make(map[string]cdc.Timestamp)}
	d.fail = func(operation, table, file string) error {
		fmt.Println(operation, table, file)
		return nil
	}
	_, err = snapshot.Run(context.Background(), snapshot.Config{
		HQ: client, Schemas: schema.NewCatalogue(client, dir), Sink: d, State: dir, Destination: named("disk://" + d.root),
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Options: snapshot.Options{Parallel: 2},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// api serves the API of HQ, and the files.
func (w *world) api() http.Handler {
	respond := func(rw http.ResponseWriter, data any, err error) {
		if err != nil {
			rw.WriteHeader(http.StatusNotFound)
		}
		_ = json.NewEncoder(rw).Encode(map[string]any{"success": err == nil, "data": data})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v3/schema", func(rw http.ResponseWriter, _ *http.Request) {
		all := make(map[string]json.RawMessage)
		for name, table := range w.tables {
			all[name], _ = schema.Encode(table)
		}
		_ = json.NewEncoder(rw).Encode(all)
	})
	mux.HandleFunc("POST /v3/export/bulk", func(rw http.ResponseWriter, r *http.Request) {
		var request hq.ExportRequest
		err := json.NewDecoder(r.Body).Decode(&request)
		if err == nil {
			var job string
			job, err = w.StartExport(r.Context(), request)
			respond(rw, map[string]string{"jobId": job}, err)
		}
	})
	mux.HandleFunc("GET /v3/export/bulk/{job}", func(rw http.ResponseWriter, r *http.Request) {
		e, err := w.ExportStatus(r.Context(), r.PathValue("job"))
		respond(rw, e, err)
	})
	mux.HandleFunc("GET /bucket/{file}", w.get)
	return mux
}

// TestRun_ResumesAfterAKill: the importing process is killed at a random step, twenty times, and then
// finishes.
func TestRun_ResumesAfterAKill(t *testing.T) {
	root := t.TempDir()
	w, d := newWorld(t, root, "order", "customer", "vendor"), newDestination(t, root)
	server := httptest.NewServer(w.api())
	defer server.Close()
	w.store = server.URL
	var texts []string
	for i := range 30 {
		texts = append(texts, rowsOf(i*100, 100))
	}
	w.put("order", texts...)
	w.put("customer", texts[:10]...)
	if err := d.setLive("order", []string{"old"}); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"order": rows(0, 3000), "customer": rows(0, 1000), "vendor": {}}

	kills, files := 0, map[string]int{}
	for try := 0; ; try++ {
		if try > 100 {
			t.Fatal("it does not end")
		}
		limit := 0 // lets it finish
		if kills < 20 {
			limit = 1 + rand.N(12)
		}
		if runChild(t, root, server.URL, limit, files) {
			break
		}
		kills++
		for table, rows := range want {
			if live := d.live(table); live != nil && !cmp.Equal(live, []string{"old"}) && !cmp.Equal(live, rows) {
				t.Fatalf("%s is neither old nor new", table)
			}
		}
	}
	t.Logf("killed %d times", kills)
	expect(t, d, want)
	if clocks, underWay := w.clocks(); len(clocks) != 3 || clocks["order"] != at(30) || underWay {
		t.Errorf("under way: %v, clocks: %v", underWay, clocks)
	}
	for file, n := range files {
		// A kill may lose the output, or hit between the end of a table and its record. But no
		// file is loaded over and over.
		if n > 3 {
			t.Errorf("%s was loaded %d times", file, n)
		}
	}
	if len(w.requests) > 2 {
		t.Errorf("%d exports", len(w.requests))
	}
}

// runChild runs the importing process, and kills it after limit steps, or never if limit is 0. It
// reports whether the process has finished.
func runChild(t *testing.T, root, address string, limit int, files map[string]int) bool {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self)
	c.Env = append(os.Environ(), childRoot+"="+root, childHQ+"="+address)
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	steps := bufio.NewScanner(out)
	for n := 1; steps.Scan(); n++ {
		if file, ok := strings.CutPrefix(steps.Text(), "loaded "); ok {
			files[file]++
		}
		if n == limit {
			if err := c.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = c.Wait()
	if err != nil && c.ProcessState.Exited() {
		t.Fatalf("the import ended by itself with %v: %s", err, stderr.String())
	}
	return err == nil
}
