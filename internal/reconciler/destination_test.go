package reconciler

import "testing"

// TestNamed_OwnsRecordsOfEarlierVersions: imports have masked URLs, and positions have spellings.
func TestNamed_OwnsRecordsOfEarlierVersions(t *testing.T) {
	lookup := func(name string) (string, bool) { return "db", name == "HOST" }
	for _, c := range []struct {
		url, recorded string
		want          bool
	}{
		{"postgresql://u:p@DB/shop?sslmode=disable", "postgres://other:***@db:5432/shop", true},
		{"postgresql://u:p@DB/shop?sslmode=disable", "postgres://${HOST}/shop", true},
		{"postgres://${HOST}/shop", "postgres://db/shop", true},
		{"postgres://${UNSET}/shop", "postgres://u:***@${UNSET}/shop?sslmode=disable", true},
		{"postgres://db/shop", "postgres://db/shop?schema=a", false},
		{"postgres://db/shop", "postgres://other/shop", false},
		{"kafka://b?topic=one", "kafka://b?topic=one&key=row", true},
		{"kafka://b?topic=one", "kafka://b?topic=other", false},
		{"kafka://b?topic=one", "kafka://b", true}, // a spelling, which lacks the topic
		{"https://h/in?secret=s", "https://h/in?secret=***", true},
		{"https://h/in", "", false},
	} {
		if got := Named(c.url, lookup).Owns("", c.recorded); got != c.want {
			t.Errorf("%s is %s: %v", c.recorded, c.url, got)
		}
	}
}
