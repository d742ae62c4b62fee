package devhq

import (
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
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

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// export runs an export job, and returns its final state.
func (c client) export(body string) (id string, response exportResponse) {
	c.t.Helper()
	var started struct{ JobID string }
	if status, message := c.call("POST", "/v3/export/bulk", body, &started); status != http.StatusOK {
		c.t.Fatalf("start an export: %d %s", status, message)
	}
	response = c.completed(started.JobID)
	for table, got := range response.Tables {
		if got.Status != statusCompleted || got.Error != "" {
			c.t.Errorf("export of %s: %+v", table, got)
		}
	}
	return started.JobID, response
}

func (c client) completed(job string) (response exportResponse) {
	c.t.Helper()
	eventually(c.t, "the job is completed", func() bool {
		response = exportResponse{}
		if status, message := c.call("GET", "/v3/export/bulk/"+job, "", &response); status != http.StatusOK {
			c.t.Fatalf("poll an export: %d %s", status, message)
		}
		return response.Completed
	})
	return response
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

// downloadRows downloads files and returns their rows.
func downloadRows(t testing.TB, urls []string) []string {
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

// shopRows returns the current rows of a table in the shop.
func shopRows(h *HQ, table string, companies, locations []string) []string {
	var all []string
	for row := range h.Shop().Snapshot().Rows(table, companies, locations) {
		all = append(all, string(row))
	}
	return all
}

// fileTime returns the clock in the name of the file at a URL. It also checks the rest of the
// name.
func fileTime(t *testing.T, url, table string, number int) cdc.Timestamp {
	t.Helper()
	name := path.Base(strings.Split(url, "?")[0])
	form := regexp.MustCompile(fmt.Sprintf(`^(\d{14})(\d{9})(\d{10})-[0-9a-f]{16}-1-1-%08d-%s-[0-9a-f]+\.ndjson\.gz$`, number, table))
	parts := form.FindStringSubmatch(name)
	if parts == nil {
		t.Fatalf("file %d of %s is called %s", number, table, name)
	}
	at, err := time.Parse("20060102150405", parts[1])
	if err != nil {
		t.Fatal(err)
	}
	nanos, _ := strconv.Atoi(parts[2])
	logical, _ := strconv.Atoi(parts[3])
	return cdc.Timestamp{Wall: at.UnixNano() + int64(nanos), Logical: uint32(logical)}
}

func TestExport_HasEveryRowOfOneMoment(t *testing.T) {
	o := options(t)
	o.FileRows, o.FileBytes = 100, 50_000
	h := begin(t, o)
	before := h.Shop().Snapshot().Clock
	_, response := h.client(t).export(`{}`)
	after := h.Shop().Snapshot().Clock

	if len(response.Tables) != len(h.Shop().Tables()) {
		t.Errorf("the job has %d tables, the shop %d", len(response.Tables), len(h.Shop().Tables()))
	}
	times := make(map[cdc.Timestamp]bool)
	for table, got := range response.Tables {
		if got.Status != "Completed" || got.Error != "" {
			t.Errorf("%s: %+v", table, got)
		}
		for i, url := range got.URLs {
			at := fileTime(t, url, table, i)
			times[at] = true
			if want := strconv.FormatInt(at.Wall, 10); got.Cursor != want {
				t.Errorf("%s: the cursor is %s, want %s", table, got.Cursor, want)
			}
			if n := len(downloadRows(t, []string{url})); n > o.FileRows {
				t.Errorf("%s: a file with %d rows", table, n)
			}
		}
		if diff := cmp.Diff(shopRows(h, table, nil, nil), downloadRows(t, got.URLs)); diff != "" {
			t.Errorf("%s: %s", table, diff)
		}
	}
	if len(times) != 1 {
		t.Errorf("the files have %d different times", len(times))
	}
	for at := range times {
		if at.Compare(before) <= 0 || at.Compare(after) >= 0 {
			t.Errorf("the files have the time %s, which is not between %s and %s", at, before, after)
		}
	}
	if n := len(response.Tables["inventory_part"].URLs); n < 2 {
		t.Errorf("the parts in stock are in %d files", n)
	}
}

func TestExport_NamesFilesLikeCockroachDB(t *testing.T) {
	w := tableWriter{
		job: "j", table: "repair_order", schemaID: 26, // 1a in hexadecimal
		clock: cdc.Timestamp{Wall: time.Date(2024, 3, 4, 5, 6, 7, 89, time.UTC).UnixNano(), Logical: 12},
	}
	want := "202403040506070000000890000000012-af63e74c8601ff3d-1-1-00000003-repair_order-1a.ndjson.gz"
	if diff := cmp.Diff(want, w.fileName(3)); diff != "" {
		t.Error(diff)
	}
}

func TestExport_SelectsTablesCompaniesAndLocations(t *testing.T) {
	h := begin(t, options(t))
	tables, companies := h.Shop().Tables(), h.Shop().Companies()
	two, locations := companies[1:], h.Shop().Locations()[1:3]
	list := func(ids []string) string { return `["` + strings.Join(ids, `","`) + `"]` }
	for _, test := range []struct {
		name, body           string
		key                  KeyOptions
		tables               []string
		companies, locations []string
	}{
		{name: "tables", body: `{"tables":["order","part"]}`, tables: []string{"order", "part"}},
		{name: "companies", body: `{"companyIds":` + list(two) + `}`, tables: tables, companies: two},
		{name: "locations", body: `{"locationIds":` + list(locations) + `}`, tables: tables, locations: locations},
		{name: "the key", body: ``, key: KeyOptions{Companies: two}, tables: tables, companies: two},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, response := client{t, h.APIURL(), h.APIKey(test.key)}.export(test.body)
			if len(response.Tables) != len(test.tables) {
				t.Errorf("%d tables, want %d", len(response.Tables), len(test.tables))
			}
			for _, table := range test.tables {
				want := shopRows(h, table, test.companies, test.locations)
				if diff := cmp.Diff(want, downloadRows(t, response.Tables[table].URLs)); diff != "" {
					t.Errorf("%s: %s", table, diff)
				}
			}
		})
	}
	c := client{t, h.APIURL(), h.APIKey(KeyOptions{Companies: two})}
	if status, _ := c.call("POST", "/v3/export/bulk", `{"companyIds":`+list(companies)+`}`, nil); status != http.StatusForbidden {
		t.Errorf("an export of a foreign company: %d", status)
	}
}

func TestExport_LeavesOutRowsChangedBefore(t *testing.T) {
	h := begin(t, options(t))
	since := time.Now().Add(-200 * 24 * time.Hour).Truncate(time.Millisecond)
	_, response := h.client(t).export(fmt.Sprintf(`{"tables":["order"],"timeOffset":%d}`, since.UnixMilli()))
	var want []string
	all := shopRows(h, "order", nil, nil)
	for _, row := range all {
		var r struct{ UpdatedDate time.Time }
		if err := json.Unmarshal([]byte(row), &r); err != nil {
			t.Fatal(err)
		}
		if !r.UpdatedDate.Before(since) {
			want = append(want, row)
		}
	}
	if len(want) == 0 || len(want) == len(all) {
		t.Fatalf("%d of %d orders changed since", len(want), len(all))
	}
	if diff := cmp.Diff(want, downloadRows(t, response.Tables["order"].URLs)); diff != "" {
		t.Error(diff)
	}
}

func TestExport_ServesFilesLikeAnObjectStore(t *testing.T) {
	h := begin(t, options(t))
	_, response := h.client(t).export(`{"tables":["order"]}`)
	url := response.Tables["order"].URLs[0]

	whole := fetch(t, url, "")
	sum := md5.Sum(whole.body)
	if got, want := whole.Header.Get("ETag"), `"`+hex.EncodeToString(sum[:])+`"`; got != want {
		t.Errorf("ETag %s, want %s", got, want)
	}
	if whole.ContentLength != int64(len(whole.body)) || whole.Header.Get("Accept-Ranges") != "bytes" ||
		whole.Header.Get("Content-Encoding") != "" {
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
	changed, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	changed.Header = http.Header{"Range": {"bytes=100-"}, "If-Range": {`"another"`}}
	if got := do(t, changed); got.StatusCode != http.StatusOK || !bytes.Equal(got.body, whole.body) {
		t.Errorf("a range of a file that has changed: %d and %d bytes", got.StatusCode, len(got.body))
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
	expired := h.keys.signedURL(h.APIURL(), http.MethodGet, exportPath+"x/y", time.Now().Add(-2*urlLife))
	if got := fetch(t, expired, ""); got.StatusCode != http.StatusForbidden {
		t.Errorf("an expired URL: %d, want 403", got.StatusCode)
	}
}
