package localhq

import (
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// withRows gives a table n rows, which alternate between companies and locations.
func (f *fakeShop) withRows(table string, n int) *fakeShop {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range n {
		company, location := fmt.Sprintf("c%d", i%2+1), fmt.Sprintf("l%d", i%3+1)
		f.rows[table] = append(f.rows[table], fakeRow{company, location, fmt.Sprintf(
			`{"id":"%s%d","companyId":%q,"locationId":%q,"updatedDate":"2024-01-01T00:%02d:00.5Z"}`, table, i, company, location, i%60)})
	}
	return f
}

// export starts a job and returns its answer when it is completed.
func (c client) export(body string) (id string, answer exportAnswer) {
	c.t.Helper()
	var started struct{ JobID string }
	if status, message := c.call("POST", "/v3/export/bulk", body, &started); status != http.StatusOK {
		c.t.Fatalf("start an export: %d %s", status, message)
	}
	return started.JobID, c.completed(started.JobID)
}

func (c client) completed(job string) (answer exportAnswer) {
	c.t.Helper()
	eventually(c.t, "the job is completed", func() bool {
		answer = exportAnswer{}
		if status, message := c.call("GET", "/v3/export/bulk/"+job, "", &answer); status != http.StatusOK {
			c.t.Fatalf("poll an export: %d %s", status, message)
		}
		return answer.Completed
	})
	return answer
}

func fetch(t testing.TB, url, ranges string) response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ranges != "" {
		r.Header.Set("Range", ranges)
	}
	return do(t, r)
}

// lines downloads files and returns their rows.
func lines(t testing.TB, urls []string) []string {
	t.Helper()
	var all []string
	for _, url := range urls {
		zip, err := gzip.NewReader(bytes.NewReader(fetch(t, url, "").body))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(zip)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(string(text), "\n") {
			t.Errorf("the last line of %s has no end", url)
		}
		all = append(all, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")...)
	}
	return all
}

func (f *fakeShop) texts(table string, wanted func(fakeRow) bool) []string {
	var all []string
	for _, r := range f.rows[table] {
		if wanted(r) {
			all = append(all, r.text)
		}
	}
	return all
}

func TestAnExportHoldsEveryRowInFilesOfCockroachNames(t *testing.T) {
	o := options(t)
	o.FileRows = 1000
	f := newFakeShop().withRows("order", 2500).withRows("part", 3)
	c := begin(t, o, f).client(t)
	_, answer := c.export(`{}`)

	cursor := strconv.FormatInt(fakeClock.Wall, 10)
	files := map[string]int{"order": 3, "part": 1, "vendor": 0}
	numbers := map[string]string{"order": "1", "part": "2"}
	for table, n := range files {
		got := answer.Tables[table]
		if got.Status != "Completed" || got.Error != "" || got.Cursor != cursor || len(got.URLs) != n {
			t.Errorf("%s: %+v, want %d files and the cursor %s", table, got, n, cursor)
		}
		for i, url := range got.URLs {
			name := path.Base(strings.Split(url, "?")[0])
			want := regexp.MustCompile(fmt.Sprintf(`^202403040506070000000890000000012-[0-9a-f]{16}-1-1-%08d-%s-%s\.ndjson\.gz$`, i, table, numbers[table]))
			if !want.MatchString(name) {
				t.Errorf("file %d of %s is called %s", i, table, name)
			}
		}
		if diff := cmp.Diff(f.texts(table, func(fakeRow) bool { return true }), lines(t, got.URLs)); diff != "" {
			t.Errorf("%s: %s", table, diff)
		}
	}
	if len(answer.Tables) != 3 {
		t.Errorf("the job has %d tables", len(answer.Tables))
	}
}

func TestAnExportIsFiltered(t *testing.T) {
	f := newFakeShop().withRows("order", 100).withRows("part", 10)
	h := begin(t, options(t), f)
	all := func(fakeRow) bool { return true }
	for _, test := range []struct {
		name, body string
		key        KeyOptions
		tables     []string
		wanted     func(fakeRow) bool
	}{
		{"tables", `{"tables":["order"]}`, KeyOptions{}, []string{"order"}, all},
		{"companies", `{"companyIds":["c2"]}`, KeyOptions{}, []string{"order", "part", "vendor"}, func(r fakeRow) bool { return r.company == "c2" }},
		{"locations", `{"locationIds":["l1","l3"]}`, KeyOptions{}, []string{"order", "part", "vendor"}, func(r fakeRow) bool { return r.location != "l2" }},
		{"the key's companies", `{"tables":["order"]}`, KeyOptions{Companies: []string{"c1"}}, []string{"order"}, func(r fakeRow) bool { return r.company == "c1" }},
		{"since", `{"tables":["order"],"timeOffset":1704067800500}`, KeyOptions{}, []string{"order"}, later},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, answer := client{t, h.APIURL(), h.APIKey(test.key)}.export(test.body)
			if len(answer.Tables) != len(test.tables) {
				t.Errorf("tables are %v, want %v", answer.Tables, test.tables)
			}
			for _, table := range test.tables {
				if diff := cmp.Diff(f.texts(table, test.wanted), lines(t, answer.Tables[table].URLs)); diff != "" {
					t.Errorf("%s: %s", table, diff)
				}
			}
		})
	}
	c := client{t, h.APIURL(), h.APIKey(KeyOptions{Companies: []string{"c1"}})}
	if status, _ := c.call("POST", "/v3/export/bulk", `{"companyIds":["c2"]}`, nil); status != http.StatusForbidden {
		t.Errorf("an export of a foreign company: %d", status)
	}
}

// later reports whether the row changed at or after 1704067800500, ten minutes
// and half a second into 2024.
func later(r fakeRow) bool {
	_, minute, _ := strings.Cut(r.text, "T00:")
	n, _ := strconv.Atoi(minute[:2])
	return n >= 10
}

func TestExportFilesAreServedAsAnObjectStoreDoes(t *testing.T) {
	h := begin(t, options(t), newFakeShop().withRows("order", 500))
	_, answer := h.client(t).export(`{"tables":["order"]}`)
	url := answer.Tables["order"].URLs[0]

	whole := fetch(t, url, "")
	sum := md5.Sum(whole.body)
	if got, want := whole.Header.Get("ETag"), `"`+hex.EncodeToString(sum[:])+`"`; got != want {
		t.Errorf("ETag %s, want %s", got, want)
	}
	if whole.ContentLength != int64(len(whole.body)) || whole.Header.Get("Accept-Ranges") != "bytes" || whole.Header.Get("Content-Encoding") != "" {
		t.Errorf("headers are %v", whole.Header)
	}
	rest := fetch(t, url, "bytes=100-")
	if rest.StatusCode != http.StatusPartialContent || !bytes.Equal(rest.body, whole.body[100:]) {
		t.Errorf("a range: %d and %d bytes", rest.StatusCode, len(rest.body))
	}
	if got, want := rest.Header.Get("Content-Range"), fmt.Sprintf("bytes 100-%d/%d", len(whole.body)-1, len(whole.body)); got != want {
		t.Errorf("Content-Range %q, want %q", got, want)
	}
	if past := fetch(t, url, fmt.Sprintf("bytes=%d-", len(whole.body))); past.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("a range past the end: %d", past.StatusCode)
	}
	for name, bad := range map[string]string{
		"another file":      strings.Replace(url, "-order-", "-part-", 1),
		"no signature":      strings.Split(url, "?")[0],
		"another signature": strings.Replace(url, "signature=", "signature=0", 1),
		"another expiry":    strings.Replace(url, "expires=1", "expires=2", 1),
	} {
		if got := fetch(t, bad, ""); got.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d, want 403", name, got.StatusCode)
		}
	}
	if expired := fetch(t, h.keys.signedURL(h.APIURL(), http.MethodGet, exportPath+"x/y", time.Now().Add(-2*urlLife)), ""); expired.StatusCode != http.StatusForbidden {
		t.Errorf("an expired URL: %d, want 403", expired.StatusCode)
	}
}
