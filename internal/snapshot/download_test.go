package snapshot_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// noise returns n rows that gzip cannot compress well.
func noise(n int) string {
	var b strings.Builder
	x := uint64(88172645463325252)
	for i := range n {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		fmt.Fprintf(&b, `{"id":"r%05d","n":%d,"x":"%016x"}`+"\n", i, i, x)
	}
	return b.String()
}

// cut announces body[from:], sends only body[from:to], and breaks the connection.
func cut(w http.ResponseWriter, tag string, body []byte, from, to int) {
	w.Header().Set("ETag", tag)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)-from))
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
		w.WriteHeader(http.StatusPartialContent)
	}
	_, _ = w.Write(body[from:to])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// offset returns the start of the requested range.
func offset(r *http.Request) int {
	n, _ := strconv.Atoi(strings.Trim(r.Header.Get("Range"), "bytes=-"))
	return n
}

// oneTable runs f in a world with one table that has one large file.
func oneTable(t *testing.T, f func(t *testing.T, w *world, d *destination, file string)) {
	t.Helper()
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w, d := newWorld(t, root, "order"), newDestination(t, root)
		w.put("order", noise(5000))
		f(t, w, d, fileName("order", 1))
		if t.Failed() {
			t.Log(w.log.String())
		}
	})
}

// imports runs an import that must succeed and import every row.
func imports(t *testing.T, w *world, d *destination) {
	t.Helper()
	report, err := w.run(t.Context(), d, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rows(0, 5000), d.live("order")); diff != "" {
		t.Errorf("%d rows of 5000 came: %.300s", report.Rows, diff)
	}
}

func TestDownload_ContinuesWhereItWasCut(t *testing.T) {
	oneTable(t, func(t *testing.T, w *world, d *destination, file string) {
		body := w.files[file]
		w.serve = func(rw http.ResponseWriter, r *http.Request, _ string, n int) bool {
			if n <= 4 {
				from := offset(r)
				cut(rw, `"`+file+`"`, body, from, min(len(body), from+len(body)/6))
			}
			return false
		}
		imports(t, w, d)
		var want []string
		for i := range 5 {
			want = append(want, fmt.Sprintf("bytes=%d-", i*(len(body)/6)))
		}
		want[0] = ""
		if diff := cmp.Diff(want, w.heads[file]); diff != "" {
			t.Error(diff)
		}
	})
}

func TestDownload_ContinuesInAnotherRun(t *testing.T) {
	oneTable(t, func(t *testing.T, w *world, d *destination, file string) {
		body := w.files[file]
		w.serve = func(rw http.ResponseWriter, r *http.Request, _ string, n int) bool {
			if n == 1 {
				cut(rw, `"`+file+`"`, body, 0, len(body)/2)
			}
			panic(http.ErrAbortHandler)
		}
		if _, err := w.run(t.Context(), d, nil); err == nil {
			t.Fatal("the download succeeded")
		}
		w.serve = nil
		before := len(w.heads[file])
		imports(t, w, d)
		if diff := cmp.Diff([]string{fmt.Sprintf("bytes=%d-", len(body)/2)}, w.heads[file][before:]); diff != "" {
			t.Error(diff)
		}
	})
}

func TestDownload_OfAnotherVersionStartsOver(t *testing.T) {
	oneTable(t, func(t *testing.T, w *world, d *destination, file string) {
		w.serve = func(rw http.ResponseWriter, r *http.Request, _ string, n int) bool {
			if n == 1 {
				cut(rw, `"older"`, bytes.Repeat([]byte("older"), 10000), 0, 40000)
			}
			if r.Header.Get("If-Range") != `"older"` {
				t.Errorf("If-Range is %q", r.Header.Get("If-Range"))
			}
			return false
		}
		imports(t, w, d)
	})
}

func TestDownload_StartsOverWithoutRanges(t *testing.T) {
	oneTable(t, func(t *testing.T, w *world, d *destination, file string) {
		body := w.files[file]
		w.serve = func(rw http.ResponseWriter, _ *http.Request, _ string, n int) bool {
			if n == 1 {
				cut(rw, "", body, 0, len(body)/2)
			}
			_, _ = rw.Write(body)
			return true
		}
		imports(t, w, d)
	})
}

// TestDownload_SurvivesWrongRanges: the wrong part, another size, more than announced, or no data
// although the file is incomplete.
func TestDownload_SurvivesWrongRanges(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter, body []byte){
		"another part": func(w http.ResponseWriter, body []byte) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 7-%d/%d", len(body)-1, len(body)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(body[7:])
		},
		"another size": func(w http.ResponseWriter, body []byte) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", len(body)/2, len(body)+9, len(body)+10))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(body[len(body)/2:])
		},
		"no range": func(w http.ResponseWriter, body []byte) {
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(body)
		},
		"not satisfiable": func(w http.ResponseWriter, body []byte) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", len(body)/3))
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		},
		"too much": func(w http.ResponseWriter, body []byte) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", len(body)/2, len(body)-1, len(body)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(append(body[len(body)/2:len(body):len(body)], "more"...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			oneTable(t, func(t *testing.T, w *world, d *destination, file string) {
				body := w.files[file]
				w.serve = func(rw http.ResponseWriter, _ *http.Request, _ string, n int) bool {
					switch n {
					case 1:
						cut(rw, `"`+file+`"`, body, 0, len(body)/2)
					case 2:
						answer(rw, body)
						return true
					}
					return false
				}
				imports(t, w, d)
			})
		})
	}
}

func TestDownload_EndsAtTheAnnouncedSize(t *testing.T) {
	const endless = 64 << 20
	oneTable(t, func(t *testing.T, w *world, d *destination, file string) {
		body, sent := w.files[file], 0
		w.serve = func(rw http.ResponseWriter, _ *http.Request, _ string, n int) bool {
			if n > 1 {
				return false
			}
			rw.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(body)-1, len(body)))
			rw.WriteHeader(http.StatusPartialContent)
			for more := body; sent < endless; more = make([]byte, 1<<20) {
				written, err := rw.Write(more)
				if sent += written; err != nil {
					break
				}
			}
			return true
		}
		imports(t, w, d)
		if most := len(body) + 8<<20; sent > most { // buffers on the way hold the rest
			t.Errorf("the server sent %d bytes of a file of %d", sent, len(body))
		}
	})
}

func TestDownload_FinishesACompletePartialFile(t *testing.T) {
	oneTable(t, func(t *testing.T, w *world, d *destination, file string) {
		body := w.files[file]
		w.serve = func(rw http.ResponseWriter, _ *http.Request, _ string, n int) bool {
			if n == 1 {
				cut(rw, `"`+file+`"`, body, 0, len(body)/2)
			}
			// The rest comes, and then a power cut prevents the rename.
			part := filepath.Join(w.root, "data", "import", "job-job1", file+".part")
			if err := os.WriteFile(part, body, 0o600); err != nil {
				t.Error(err)
			}
			rw.WriteHeader(http.StatusServiceUnavailable)
			w.serve = nil
			return true
		}
		imports(t, w, d)
		if got := w.heads[file][2:]; !cmp.Equal(got, []string{fmt.Sprintf("bytes=%d-", len(body))}) {
			t.Errorf("asked for %q", got)
		}
	})
}

func TestDownload_IgnoresAPartialFileOfAnUnknownVersion(t *testing.T) {
	oneTable(t, func(t *testing.T, w *world, d *destination, file string) {
		dir := filepath.Join(w.root, "data", "import", "job-job1")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file+".part"), []byte("junk"), 0o600); err != nil {
			t.Fatal(err)
		}
		imports(t, w, d)
		if diff := cmp.Diff([]string{""}, w.heads[file]); diff != "" {
			t.Error(diff)
		}
	})
}

func TestDownload_WaitsWhileTheServerIsUnavailable(t *testing.T) {
	oneTable(t, func(t *testing.T, w *world, d *destination, file string) {
		began := time.Now()
		w.serve = func(rw http.ResponseWriter, _ *http.Request, _ string, _ int) bool {
			if time.Since(began) < 8*time.Minute {
				rw.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			return false
		}
		imports(t, w, d)
		if n := w.gets[file]; n < 16 || n > 60 {
			t.Errorf("%d requests in 8 minutes", n)
		}
	})
}

func TestDownload_GivesUpWithoutProgress(t *testing.T) {
	oneTable(t, func(t *testing.T, w *world, d *destination, file string) {
		w.serve = func(rw http.ResponseWriter, _ *http.Request, _ string, _ int) bool {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		began := time.Now()
		_, err := w.run(t.Context(), d, nil)
		want := "1 of 1 table was not imported: order: file " + file + ": download: the server answers 503 Service Unavailable"
		if err == nil || err.Error() != want || time.Since(began) > 10*time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

func TestDownload_HonoursRetryAfter(t *testing.T) {
	oneTable(t, func(t *testing.T, w *world, d *destination, _ string) {
		began := time.Now()
		w.serve = func(rw http.ResponseWriter, _ *http.Request, _ string, n int) bool {
			if n == 1 {
				rw.Header().Set("Retry-After", "77")
				rw.WriteHeader(http.StatusTooManyRequests)
				return true
			}
			return false
		}
		imports(t, w, d)
		if took := time.Since(began); took < 77*time.Second || took > 80*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestDownload_RetriesAfterAStall(t *testing.T) {
	oneTable(t, func(t *testing.T, w *world, d *destination, file string) {
		body := w.files[file]
		w.serve = func(rw http.ResponseWriter, r *http.Request, _ string, n int) bool {
			if n == 1 {
				rw.Header().Set("ETag", `"`+file+`"`)
				rw.Header().Set("Content-Length", strconv.Itoa(len(body)))
				_, _ = rw.Write(body[:20000])
				_ = http.NewResponseController(rw).Flush()
				<-r.Context().Done()
				return true
			}
			return false
		}
		began := time.Now()
		imports(t, w, d)
		if took := time.Since(began); took > 2*time.Minute {
			t.Errorf("took %v", took)
		}
		if diff := cmp.Diff([]string{"", "bytes=20000-"}, w.heads[file]); diff != "" {
			t.Error(diff)
		}
	})
}

// TestDownload_ReplacesAnExpiredURL, also in the middle of a file, and continues there.
func TestDownload_ReplacesAnExpiredURL(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 410} {
		oneTable(t, func(t *testing.T, w *world, d *destination, file string) {
			body := w.files[file]
			w.status = func(_ string, asked int) (hq.Export, error) {
				e := w.everything()
				e.Tables["order"].URLs[0] += fmt.Sprintf("&expires=%d", asked)
				return e, nil
			}
			var expired string
			w.serve = func(rw http.ResponseWriter, r *http.Request, _ string, n int) bool {
				switch expires := r.URL.Query().Get("expires"); n {
				case 1:
					cut(rw, `"`+file+`"`, body, 0, len(body)/2)
				case 2:
					expired = expires
					rw.WriteHeader(status)
					return true
				default:
					if expires == expired {
						t.Errorf("%d: the expired url is used again", status)
					}
				}
				return false
			}
			imports(t, w, d)
			if got := w.heads[file]; len(got) != 3 || got[2] != fmt.Sprintf("bytes=%d-", len(body)/2) {
				t.Errorf("%d: asked for %q", status, got)
			}
		})
	}
}

func TestDownload_FailsTheTableIfTheURLIsAlwaysRefused(t *testing.T) {
	oneTable(t, func(t *testing.T, w *world, d *destination, file string) {
		w.serve = func(rw http.ResponseWriter, _ *http.Request, _ string, _ int) bool {
			rw.WriteHeader(http.StatusForbidden)
			return true
		}
		_, err := w.run(t.Context(), d, nil)
		want := "1 of 1 table was not imported: order: file " + file +
			": download: the download url is refused: the server answers 403 Forbidden"
		if err == nil || err.Error() != want {
			t.Errorf("got %v", err)
		}
		if n := w.gets[file]; n != 5 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestDownload_ReportsADiskError(t *testing.T) {
	oneTable(t, func(t *testing.T, w *world, d *destination, file string) {
		// A directory in place of the partial file has the effect of a full disk.
		part := filepath.Join(w.root, "data", "import", "job-job1", file+".part")
		if err := os.MkdirAll(part, 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := w.run(t.Context(), d, nil)
		if err == nil || !strings.Contains(err.Error(), "is a directory") {
			t.Errorf("got %v", err)
		}
	})
}

func TestDownload_BoundsConcurrency(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w, d := newWorld(t, root, "a", "b", "c"), newDestination(t, root)
		for table := range w.tables {
			var texts []string
			for i := range 10 {
				texts = append(texts, rowsOf(i*10, 10))
			}
			w.put(table, texts...)
		}
		now, most := 0, 0
		w.serve = func(_ http.ResponseWriter, _ *http.Request, _ string, _ int) bool {
			w.mu.Lock()
			now++
			most = max(most, now)
			w.mu.Unlock()
			<-time.After(time.Second) // of the bubble: every possible request has come by then
			w.mu.Lock()
			now--
			w.mu.Unlock()
			return false
		}
		if _, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.Parallel = 3 }); err != nil {
			t.Fatal(err)
		}
		if most != 4 {
			t.Errorf("%d downloads at a time", most)
		}
	})
}

// TestStalled_IgnoresTablesThatWaitForDownloadsOfOthers: each file comes late, and there are more
// files than are downloaded at once.
func TestStalled_IgnoresTablesThatWaitForDownloadsOfOthers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		for _, table := range []string{"order", "customer", "vendor"} {
			var texts []string
			for i := range 8 {
				texts = append(texts, rowsOf(i, 1))
			}
			w.put(table, texts...)
		}
		w.serve = func(http.ResponseWriter, *http.Request, string, int) bool {
			time.Sleep(25 * time.Second)
			return false
		}
		calls, err := w.stalls(d)
		if err != nil || len(calls) > 0 {
			t.Errorf("it reports %v, and ends with %v", calls, err)
		}
	})
}
