package encode_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

var hostile = []string{
	"", ".", "..", "...", "../x", "a/b", "/a", `a\b`, `C:\x`, "a:b", "a\x00b", "a\nb", " ", " a", "a ", "a.", ".a", "a.b", "CON", "con.txt",
	"Nul", "COM1", "com1.a.b", "COMX", "COM10", "lpt0", "_eds", "_EDS", "_eds_x",
	"%", "%2E", "%-", "%41", "A", "~", "-", "--", "a-b", "é", "日本", "\xff", "a?b", "a*b", `"`, "'", "<>", "|", "{{.x}}", "$HOME", "`id`",
	";", "&", "x y", "\ufffd",
	strings.Repeat("a", 100), strings.Repeat("a", 101), strings.Repeat("a", 102), strings.Repeat("/", 50), strings.Repeat("é", 60),
	strings.Repeat("a", 99) + "/", strings.Repeat("a", 63) + "%-" + strings.Repeat("0", 32),
}

func TestSegment_IsSafeAndUnique(t *testing.T) {
	seen := map[string]string{}
	for _, text := range hostile {
		got := encode.Segment(text, 100)
		checkElement(t, text, got, 100)
		if other, taken := seen[got]; taken {
			t.Errorf("%q and %q are both %q", text, other, got)
		}
		seen[got] = text
		if got != encode.Segment(text, 100) {
			t.Errorf("%q has two segments", text)
		}
	}
	for _, plain := range []string{"order", "6f1c7a55-3f0e-4b9e-9d25-0e7f5f9f0a11", "507f1f77bcf86cd799439011", "a_b.c@d+e=f,g", "v1.2"} {
		if got := encode.Segment(plain, 100); got != plain {
			t.Errorf("%q became %q", plain, got)
		}
	}
}

var reserved = regexp.MustCompile(`(?i)^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?$|^_eds$`)

// checkElement checks that got, the result for text, is a valid file name on any system.
func checkElement(t testing.TB, text, got string, limit int) {
	t.Helper()
	switch {
	case got == "" || len(got) > limit:
		t.Errorf("%q became %q, of %d bytes", text, got, len(got))
	case strings.ContainsAny(got, "/\\\x00:*?\"<>|\n\r\t") || strings.Trim(got, ". ") != got:
		t.Errorf("%q became %q, which is not safe", text, got)
	case reserved.MatchString(got):
		t.Errorf("%q became %q, which is reserved", text, got)
	case !filepath.IsLocal(got) || path.Clean(got) != got:
		t.Errorf("%q became %q, which leads elsewhere", text, got)
	}
}

// TestObjectName_DiffersForDifferentEvents combines hostile tables, keys and ids.
func TestObjectName_DiffersForDifferentEvents(t *testing.T) {
	ids := append([]string{"c", "b-c", "0e7f5f9f0a11", "6f1c7a55-3f0e-4b9e-9d25-0e7f5f9f0a11", "9d25-0e7f5f9f0a11"}, hostile...)
	keys := append([]string{"a", "a-b", "k-6f1c7a55-3f0e-4b9e-9d25", "k", "k-6f1c7a55-3f0e-4b9e"}, hostile...)
	seen := map[string]string{}
	check := func(table, key, id string) {
		e := &cdc.Event{Table: table, ID: id, Timestamp: 1712345678901, Op: cdc.Insert}
		e.Key, _ = json.Marshal([]string{key})
		name := encode.ObjectName(e)
		what := fmt.Sprintf("%q %q %q", table, e.RowID(), id)
		if other, taken := seen[name]; taken && other != what {
			t.Errorf("%s and %s are both %s", what, other, name)
		}
		seen[name] = what
		dir, file, _ := strings.Cut(name, "/")
		checkElement(t, what, dir, 200)
		checkElement(t, what, file, 240)
	}
	for _, key := range keys {
		for _, id := range ids {
			check("order", key, id)
		}
	}
	for _, table := range hostile {
		check(table, "k", "id")
	}
}

func FuzzSegment(f *testing.F) {
	for i, text := range hostile {
		f.Add(text, hostile[len(hostile)-1-i], byte(i))
	}
	f.Fuzz(func(t *testing.T, a, b string, limit byte) {
		n := 60 + int(limit)
		x, y := encode.Segment(a, n), encode.Segment(b, n)
		checkElement(t, a, x, n)
		if (a == b) != (x == y) {
			t.Fatalf("%q is %q, and %q is %q", a, x, b, y)
		}
		if back, err := url.PathUnescape(x); err == nil && !strings.Contains(x, "%-") && back != a {
			t.Fatalf("%q is %q, which reads back as %q", a, x, back)
		}
	})
}

func FuzzCleanPath(f *testing.F) {
	for _, text := range hostile {
		f.Add(text)
	}
	f.Add("a//b/../c/./CON/ d /.e")
	f.Add(strings.Repeat("é", 300) + "/x")
	f.Fuzz(func(t *testing.T, text string) {
		got := encode.CleanPath(text)
		for _, element := range strings.Split(got, "/") {
			checkElement(t, text, element, 240)
		}
		if again := encode.CleanPath(got); again != got {
			t.Fatalf("%q became %q, and then %q", text, got, again)
		}
		if !filepath.IsLocal(got) {
			t.Fatalf("%q became %q", text, got)
		}
	})
}

// FuzzPath renders templates for hostile events. No value of a change may make the path lead out
// of the destination.
func FuzzPath(f *testing.F) {
	f.Add(`{{.table}}/received/{{.table}}_{{.mvccTimestamp}}_{{.id}}.json`, "order", "../../x", "a/b")
	f.Add(`{{.after.x}}/{{.key}}`, "..", "", "\x00")
	f.Fuzz(func(t *testing.T, text, table, id, value string) {
		p, err := encode.ParsePath(text)
		if err != nil {
			return
		}
		after, _ := json.Marshal(map[string]string{"x": value})
		key, _ := json.Marshal([]string{id, value})
		got, err := p.Render(&cdc.Event{Table: table, ID: id, CompanyID: value, Op: cdc.Insert, After: after, Key: key})
		if err != nil {
			return
		}
		for _, element := range strings.Split(got, "/") {
			checkElement(t, text, element, 240)
		}
	})
}
