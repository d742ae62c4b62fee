package eventhub

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/golden"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/eventhub"
)

// story returns a sequence of changes of every kind.
func story(t testing.TB) []*cdc.Event {
	t.Helper()
	var events []*cdc.Event
	for i, payload := range []string{
		`{"operation":"INSERT","id":"e1","table":"order","key":["c1","o-1"],"modelVersion":"v7","companyId":"c1","locationId":"l1",` +
			`"after":{"id":"o-1","total":12345678901234567890,"price":1.50,"note":"it's \u0041 \"quote\""},"timestamp":1712345678901,` +
			`"mvccTimestamp":"1712345678901234567.0000000002"}`,
		`{"operation":"UPDATE","id":"e2","table":"order","key":["c1","o-1"],"modelVersion":"v7","companyId":"c1","locationId":null,` +
			`"before":{"id":"o-1","total":1},"after":{"id":"o-1", "total":2},"diff":["total"],"timestamp":1712345678902,` +
			`"mvccTimestamp":"1712345678902000000"}`,
		`{"operation":"DELETE","id":"e4","table":"order","key":["c1","o-\u0032"],"modelVersion":"v7","companyId":"c1",` +
			`"before":{"id":"o-2"},"timestamp":1712345678904,"mvccTimestamp":"1712345678904000000"}`,
		`{"operation":"DELETE","id":"e5","table":"part","key":[12],"timestamp":1712345678905,"mvccTimestamp":"1712345678905000000"}`,
		`{"operation":"INSERT","id":"e6","table":"part","after":{"id":"p\/1"},"timestamp":1712345678906,` +
			`"mvccTimestamp":"1712345678906000000","imported":true}`,
		"{\"operation\":\"INSERT\",\"id\":\"e7\",\"table\":\"part\",\"after\":{},\"key\":[\"b\xff\"],\"timestamp\":1712345678907," +
			"\"mvccTimestamp\":\"1712345678907000000\"}",
		`{"operation":"UPDATE","id":"e8","table":"order","key":["` + strings.Repeat("ü0", 100) +
			`"],"companyId":"c1","after":{},"timestamp":1712345678908,"mvccTimestamp":"1712345678908000000"}`,
	} {
		events = append(events, sinktest.Event(t, i+1, payload))
	}
	return events
}

// show formats events as text, sorted by partition key.
func show(events []peer.Event) string {
	slices.SortStableFunc(events, func(a, b peer.Event) int { return strings.Compare(a.Key, b.Key) })
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "%s\n    message id: %s\n    content type: %s\n", e.Key, e.ID, e.Type)
		for _, name := range slices.Sorted(maps.Keys(e.Properties)) {
			fmt.Fprintf(&b, "    property %s: %v\n", name, e.Properties[name])
		}
		fmt.Fprintf(&b, "    %s\n", e.Body)
	}
	return b.String()
}

func TestApply_WritesGoldenMessages(t *testing.T) {
	for name, query := range map[string]string{"all": "", "contract": "?properties=false"} {
		hub := newHub(t, peer.Settings{})
		sinktest.Apply(t, mustOpen(t, urlTo(hub, query)), sinktest.Batch(story(t)...))
		golden.Compare(t, name+".txt", show(hub.Stored(t)))
	}
}

// TestPartitionKey_HonoursAzuresLimit checks keys around the limit of 128 UTF-16 code units. A
// longer key must be shortened to a key that is still unique per row.
func TestPartitionKey_HonoursAzuresLimit(t *testing.T) {
	key := func(row string) string {
		key, _ := partitionKey(&cdc.Event{Table: "t", Key: []byte(`["` + row + `"]`)})
		return key
	}
	const before = "t.NONE.NONE."
	for _, row := range []string{
		"k", strings.Repeat("x", 128-len(before)), strings.Repeat("ü", 128-len(before)),
		strings.Repeat("😀", (128-len(before))/2),
	} {
		if got := key(row); got != before+row {
			t.Errorf("the key of %q is %q", row, got)
		}
	}
	seen := make(map[string]bool)
	for _, row := range []string{
		strings.Repeat("x", 129-len(before)), strings.Repeat("x", 130-len(before)),
		strings.Repeat("ü", 129-len(before)), "a" + strings.Repeat("😀", 58), strings.Repeat("😀", 59),
	} {
		got := key(row)
		if utf16Length(got) > maxPartitionKey || utf16Length(got) < maxPartitionKey-1 || !strings.HasPrefix(got, before) || seen[got] ||
			got != key(row) {
			t.Errorf("the key of %q is %q, of length %d", row, got, utf16Length(got))
		}
		seen[got] = true
	}
}

func TestApply_ReplacesAndCountsInvalidUTF8(t *testing.T) {
	hub := newHub(t, peer.Settings{})
	counted := env
	var seen []string
	counted.Adjusted = func(table, column, rule string) { seen = append(seen, table+" "+column+" "+rule) }
	s, err := tryOpen(t, urlTo(hub, ""), counted)
	if err != nil {
		t.Fatal(err)
	}
	sinktest.Apply(t, s, sinktest.Batch(story(t)...))
	if want := []string{"part  invalid-utf8"}; !slices.Equal(seen, want) {
		t.Errorf("adjusted: %q, want %q", seen, want)
	}
}

func TestLegal_ReturnsNamesAzureAccepts(t *testing.T) {
	long := strings.Repeat("x", 300)
	for text, want := range map[string]string{"": "0", ".": "0.0", "a b/c%ü": "a_b_c___0", "ok.A-1_a": "ok.A-1_a", "_x": "0_x"} {
		if got := legal(text); got != want {
			t.Errorf("legal(%q) = %q, want %q", text, got, want)
		}
	}
	if a, b := legal(long+"a"), legal(long+"b"); len(a) != maxHub || a == b || legal(a) != a {
		t.Errorf("long names become %q and %q", a, b)
	}
}
