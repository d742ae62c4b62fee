package telemetry_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// times matches the times of records, which differ from run to run.
var times = regexp.MustCompile(`("time":)"[^"]*"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}`)

func stable(b *bytes.Buffer) string { return times.ReplaceAllString(b.String(), "${1}TIME") }

func logSome(l *slog.Logger) {
	l.Debug("detail")
	l.Info("snapshot loaded", "table", "order", "rows", 1200, "took", 1500*time.Millisecond)
	l.With("a", 1).WithGroup("g").With("b", "two words").Warn("grouped", "c", slog.GroupValue(slog.Int("d", 4)),
		slog.Group("", slog.Bool("inline", true)), slog.Attr{})
	l.Error("apply the batch", "error", fmt.Errorf("merge into order: %w", io.ErrUnexpectedEOF), "empty", "", "at",
		time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC))
}

func TestLogger_WritesItsFormats(t *testing.T) {
	for name, c := range map[string]struct {
		options telemetry.LogOptions
		want    string
	}{
		"plain": {telemetry.LogOptions{}, `INFO  snapshot loaded  table=order rows=1200 took=1.5s
WARN  grouped  a=1 g.b="two words" g.c.d=4 g.inline=true
ERROR apply the batch  error="merge into order: unexpected EOF" empty="" at=2026-01-02T03:04:05.000006Z
`},
		"verbose, with time and label": {telemetry.LogOptions{Verbose: true, Time: true, Label: "east"}, `TIME DEBUG detail  label=east
TIME INFO  snapshot loaded  label=east table=order rows=1200 took=1.5s
TIME WARN  grouped  label=east a=1 g.b="two words" g.c.d=4 g.inline=true
TIME ERROR apply the batch  label=east error="merge into order: unexpected EOF" empty="" at=2026-01-02T03:04:05.000006Z
`},
		"silent": {telemetry.LogOptions{Silent: true, Verbose: true}, "" +
			`ERROR apply the batch  error="merge into order: unexpected EOF" empty="" at=2026-01-02T03:04:05.000006Z
`},
		"coloured": {
			telemetry.LogOptions{Silent: true, Color: true},
			"\x1b[31mERROR\x1b[0m apply the batch  \x1b[36merror=\x1b[0m\"merge into order: unexpected EOF\" " +
				"\x1b[36mempty=\x1b[0m\"\" \x1b[36mat=\x1b[0m2026-01-02T03:04:05.000006Z\n",
		},
		"json": {telemetry.LogOptions{JSON: true, Color: true, Time: true, Label: "east"}, "" +
			`{"time":TIME,"level":"INFO","msg":"snapshot loaded","label":"east","table":"order","rows":1200,"took":"1.5s"}
{"time":TIME,"level":"WARN","msg":"grouped","label":"east","a":1,"g":{"b":"two words","c":{"d":4},"inline":true}}
{"time":TIME,"level":"ERROR","msg":"apply the batch","label":"east",` +
			`"error":"merge into order: unexpected EOF","empty":"","at":"2026-01-02T03:04:05.000006Z"}
`},
	} {
		var out bytes.Buffer
		c.options.Console = &out
		logSome(telemetry.NewLogger(c.options))
		if diff := cmp.Diff(c.want, stable(&out)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestLogger_WritesAllRecordsToTheFile(t *testing.T) {
	var console, file bytes.Buffer
	l := telemetry.NewLogger(telemetry.LogOptions{Console: &console, Silent: true, Verbose: true, File: &file, Label: "x"})
	l.Debug("one")
	l.Error("two")
	if diff := cmp.Diff("ERROR two  label=x\n", console.String()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(`{"time":TIME,"level":"DEBUG","msg":"one","label":"x"}
{"time":TIME,"level":"ERROR","msg":"two","label":"x"}
`, stable(&file)); diff != "" {
		t.Error(diff)
	}
}

func TestLogger_KeepsRecordsOnOneLine(t *testing.T) {
	var out bytes.Buffer
	l := telemetry.NewLogger(telemetry.LogOptions{Console: &out})
	l.Info("first\nINFO  forged\x1b[2J\u202e\xff é", "key\n\x1b", "value\r\nINFO  forged\x1b]0;title\x07", "any",
		struct{ A string }{"x\ny"}, "é", "日本語")
	want := `INFO  first\nINFO  forged\x1b[2J\u202e\xff é  key\n\x1b="value\r\nINFO  forged\x1b]0;title\a"` +
		` any="{A:x\ny}" é=日本語` + "\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestLogger_WritesWholeLinesConcurrently(t *testing.T) {
	var out bytes.Buffer
	l := telemetry.NewLogger(telemetry.LogOptions{Console: &out})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			child := l.With("writer", i)
			for range 100 {
				child.Info("message", "text", strings.Repeat("x", 100))
			}
		})
	}
	all.Wait()
	line := regexp.MustCompile(`^INFO  message  writer=\d text=x{100}$`)
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	for _, got := range lines {
		if !line.MatchString(got) {
			t.Fatalf("got %q", got)
		}
	}
	if len(lines) != 800 {
		t.Errorf("%d lines", len(lines))
	}
}

func TestLogger_MasksSecrets(t *testing.T) {
	const jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJzIn0.c2lnbmF0dXJl"
	const seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
	var out bytes.Buffer
	l := telemetry.NewLogger(telemetry.LogOptions{Console: &out, JSON: true, Verbose: true})
	parsed := &url.URL{Scheme: "postgres", User: url.UserPassword("u", "SECRET"), Host: "h"}
	header := http.Header{"Authorization": {"Bearer SECRET"}, "X-Request-Id": {"r1"}}
	l.Info("connect to postgres://u:SECRET@h/db?sslpassword=SECRET&sslmode=require with "+jwt,
		"password", "SECRET", "apiKey", "SECRET", "api_key", "SECRET", "Authorization", "SECRET", "accessToken", "SECRET", "seed", "SECRET",
		"url", "s3://b?secret-access-key=SECRET&X-Amz-Signature=SECRET&region=eu", "parsed", parsed, "header", header,
		"key", jwt, "nkey", seed, "basic", "Basic U0VDUkVUOlNFQ1JFVA==", "error", errors.New("dial nats://u:SEC/RE@T@h: refused"),
		"credentials", slog.GroupValue(slog.String("user", "SECRET"),
			slog.Int("length", 6)), "list", []string{"https://a:SECRET@b"}, "map", map[string]string{"token": "SECRET", "x": "1"},
		"deep", map[string]any{"a": map[string]any{"password": "SECRET", "n": 1}, "b": "https://u:SECRET@h"},
		"secret", struct{ S string }{"SECRET"}, "lazy", lazy{}, "nothing", nil, "tokens", 12,
		"table", "order", "plain", "https://example.com/a?page=2", "who", "me@example.com")
	l.With("token", "SECRET").WithGroup("secrets").With("a", "SECRET").Warn("grouped", "b", "SECRET")
	want := `{"time":TIME,"level":"INFO","msg":"connect to postgres://u:***@h/db?sslpassword=***&sslmode=require with ***",` +
		`"password":"***","apiKey":"***","api_key":"***","Authorization":"***","accessToken":"***","seed":"***",` +
		`"url":"s3://b?secret-access-key=***&X-Amz-Signature=***&region=eu","parsed":"postgres://u:***@h",` +
		`"header":{"Authorization":["***"],"X-Request-Id":["r1"]},` +
		`"key":"***","nkey":"***","basic":"Basic ***","error":"dial nats://u:***@h: refused",` +
		`"credentials":{"user":"***","length":6},"list":["https://a:***@b"],"map":{"token":"***","x":"1"},` +
		`"deep":{"a":{"n":1,"password":"***"},"b":"https://u:***@h"},` +
		`"secret":"***","lazy":"https://u:***@h","nothing":null,"tokens":12,` +
		`"table":"order","plain":"https://example.com/a?page=2","who":"me@example.com"}
{"time":TIME,"level":"WARN","msg":"grouped","token":"***","secrets":{"a":"***","b":"***"}}
`
	if diff := cmp.Diff(strings.ReplaceAll(want, "},", "},\n"), strings.ReplaceAll(stable(&out), "},", "},\n")); diff != "" {
		t.Error(diff)
	}
}

// lazy makes its value only when it is logged.
type lazy struct{}

func (lazy) LogValue() slog.Value { return slog.StringValue("https://u:SECRET@h") }

func FuzzMaskedTextHoldsNoPassword(f *testing.F) {
	f.Add("dial ", "u", "p@ss/w:rd", "h/db: refused")
	f.Fuzz(func(t *testing.T, before, user, password, after string) {
		if strings.ContainsAny(user, ":@/ \t\r\n\v\f\"'`<>") || strings.ContainsAny(password, " \t\r\n\v\f\"'`<>") || len(password) < 4 {
			return
		}
		if strings.Contains(before+user+after+"***", password) || strings.Contains("://"+user+":***@", password) {
			return
		}
		text := before + " postgres://" + user + ":" + password + "@" + after
		if got := telemetry.MaskText(text); strings.Contains(got, ":"+password+"@") {
			t.Errorf("MaskText(%q) = %q", text, got)
		}
	})
}

func BenchmarkLogger(b *testing.B) {
	for name, o := range map[string]telemetry.LogOptions{"text": {}, "json": {JSON: true}} {
		b.Run(name, func(b *testing.B) {
			o.Console = io.Discard
			l := telemetry.NewLogger(o)
			b.ReportAllocs()
			for b.Loop() {
				l.Info("batch applied", "rows", 5000, "table", "order", "url", "postgres://u:p@h/db")
			}
		})
	}
}
