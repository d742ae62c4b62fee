package snowflake_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/drivers/snowflake"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/snowflake"
)

func TestMain(m *testing.M) {
	// Otherwise Snowflake's driver tries to detect the cloud that it runs in.
	os.Setenv("SNOWFLAKE_DISABLE_PLATFORM_DETECTION", "true")
	goleak.VerifyTestMain(m)
}

// script is a double of Snowflake's SQL engine with scripted results, by prefixes of statements. It
// reports that every MERGE, COPY and UPDATE wrote all rows, and stores the definitions of created
// tables and one checkpoint.
type script struct {
	mu      sync.Mutex
	answers map[string]func(q peer.Query) (*peer.Result, error)
	columns [][]string // the rows of INFORMATION_SCHEMA.COLUMNS
	rows    [][]byte   // the rows received in parameters and files

	checkpoint map[string]string // the values of the checkpoint, by column
}

func newScript() *script {
	return &script{answers: make(map[string]func(peer.Query) (*peer.Result, error))}
}

// on sets the result of statements that start with the prefix.
func (s *script) on(prefix string, answer func(q peer.Query) (*peer.Result, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[prefix] = answer
}

// refuse makes statements that start with the prefix fail.
func (s *script) refuse(prefix string, code int, state, message string) {
	s.on(prefix, func(peer.Query) (*peer.Result, error) {
		return nil, &peer.Error{Code: code, State: state, Message: message}
	})
}

func (s *script) Open(peer.Place) (peer.Session, error) { return s, nil }

func (s *script) Close() error { return nil }

// table adds a table to the catalogue, with columns such as "name TYPE".
func (s *script) table(name string, columns ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.describe(name, columns...)
}

func (s *script) describe(name string, columns ...string) {
	for _, c := range columns {
		column, kind, _ := strings.Cut(c, " ")
		line := []string{name, column, kind, "", "", "", "", "YES", "", "NO"}
		switch kind {
		case "TEXT":
			line[3] = "16777216"
		case "NUMBER":
			line[4], line[5] = "38", "0"
		}
		s.columns = append(s.columns, line)
	}
}

func (s *script) Query(_ context.Context, q peer.Query) (*peer.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for prefix, answer := range s.answers {
		if strings.HasPrefix(q.SQL, prefix) {
			return answer(q)
		}
	}
	s.store(q)
	switch {
	case strings.HasPrefix(q.SQL, "SELECT CURRENT_DATABASE()"):
		return row("SHOP", "PUBLIC", "WH", "EDS", "7"), nil
	case strings.Contains(q.SQL, "INFORMATION_SCHEMA.COLUMNS"):
		return s.catalogue(q.Args[0]), nil
	case strings.HasSuffix(q.SQL, ` FROM "_eds_checkpoint"`):
		return s.stored(q), nil
	case strings.HasPrefix(q.SQL, "SELECT TO_VARCHAR(COALESCE(MAX("):
		return row("0"), nil
	case strings.HasPrefix(q.SQL, "SELECT COUNT(*)"):
		return named([]string{"COUNT(*)"}, fmt.Sprint(s.arrived(q))), nil
	case strings.HasPrefix(q.SQL, `MERGE INTO "_eds`):
		return named([]string{"number of rows inserted", "number of rows updated"}, "1", "0"), nil
	case strings.HasPrefix(q.SQL, "UPDATE"):
		return named([]string{"number of rows updated"}, "1"), nil
	case strings.HasPrefix(q.SQL, "MERGE"):
		return named([]string{"number of rows inserted", "number of rows updated", "number of rows deleted"}, fmt.Sprint(s.arrived(q)),
			"0", "0"), nil
	case strings.HasPrefix(q.SQL, "COPY"):
		return named([]string{"file", "rows_loaded"}, "f", fmt.Sprint(s.arrived(q))), nil
	}
	return &peer.Result{Columns: []peer.Column{{Name: "status"}}}, nil
}

var (
	madeTable = regexp.MustCompile(`^CREATE (?:OR REPLACE )?(?:TRANSIENT )?TABLE (?:IF NOT EXISTS )?"(.+?)"`)
	column    = regexp.MustCompile(`"(\w+)"(?: (STRING|VARCHAR|TEXT|NUMBER))?`)
)

// store records the table that a statement defines, and the checkpoint that it stores.
func (s *script) store(q peer.Query) {
	if table := madeTable.FindStringSubmatch(q.SQL); table != nil {
		for _, c := range column.FindAllStringSubmatch(q.SQL[len(table[0]):], -1) {
			switch c[2] {
			case "NUMBER":
				s.describe(table[1], c[1]+" NUMBER")
			case "STRING", "VARCHAR", "TEXT":
				s.describe(table[1], c[1]+" TEXT")
			}
		}
	}
	if strings.HasPrefix(q.SQL, `MERGE INTO "_eds_checkpoint" AS t USING (SELECT ?`) {
		s.checkpoint = map[string]string{
			"stream": q.Args[2], "consumer": q.Args[3], "filter": q.Args[4], "position": q.Args[0],
			"stored": q.Args[1],
		}
	}
	if strings.HasPrefix(q.SQL, `UPDATE "_eds_checkpoint" SET "position"`) {
		s.checkpoint["position"], s.checkpoint["stored"] = q.Args[0], q.Args[1]
	}
}

// stored returns the result of a query for the checkpoint.
func (s *script) stored(q peer.Query) *peer.Result {
	if s.checkpoint == nil {
		return &peer.Result{Columns: []peer.Column{{Name: "c"}}}
	}
	var values []string
	for _, c := range column.FindAllStringSubmatch(strings.TrimSuffix(q.SQL, ` FROM "_eds_checkpoint"`), -1) {
		values = append(values, s.checkpoint[c[1]])
	}
	return row(values...)
}

func (s *script) catalogue(names string) *peer.Result {
	r := &peer.Result{}
	for range 10 {
		r.Columns = append(r.Columns, peer.Column{Name: "c"})
	}
	for _, c := range s.columns {
		if !strings.Contains(names, fmt.Sprintf("%q", c[0])) {
			continue
		}
		line := make([]*string, len(c))
		for i := range c {
			if c[i] != "" {
				line[i] = &c[i]
			}
		}
		r.Rows = append(r.Rows, line)
	}
	return r
}

// arrived records the rows that a statement reads, and returns the number of rows to upsert.
func (s *script) arrived(q peer.Query) int {
	n := 0
	for _, line := range q.Rows() {
		s.rows = append(s.rows, line)
		if strings.HasPrefix(string(line), `{"o":"u"`) {
			n++
		}
	}
	return n
}

func (s *script) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for _, r := range s.rows {
		lines = append(lines, string(r))
	}
	return lines
}

func row(values ...string) *peer.Result { return named(make([]string, len(values)), values...) }

func named(names []string, values ...string) *peer.Result {
	r := &peer.Result{Rows: [][]*string{make([]*string, len(values))}}
	for i := range values {
		r.Columns = append(r.Columns, peer.Column{Name: names[i]})
		if values[i] != "" {
			r.Rows[0][i] = &values[i]
		}
	}
	return r
}

var privateKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// serve starts the double of Snowflake's service with the script.
func serve(t *testing.T, s *script) *peer.Server {
	t.Helper()
	key, err := privateKey()
	if err != nil {
		t.Fatal(err)
	}
	return peer.New(t, s, peer.Users{
		Passwords: map[string]string{"eds": "p@ss/w%rd"}, Keys: map[string]*rsa.PublicKey{"eds": &key.PublicKey},
		Tokens: map[string]string{"eds": "PAT"}, OAuth: "BEARER",
	})
}

// address returns the URL of a server, with a password and options.
func address(server *peer.Server, options ...string) string {
	return (&url.URL{
		Scheme: "snowflake", User: url.UserPassword("eds", "p@ss/w%rd"), Host: server.Host(), Path: "/shop/public",
		RawQuery: strings.Join(append([]string{"protocol=http&account=test&warehouse=wh"}, options...), "&"),
	}).String()
}

func environment(t testing.TB) sink.Env {
	return sink.Env{Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Stream: "dbchange", Consumer: "c", Filter: "f"}
}

// open opens the destination at a URL. The sink is closed when the test ends.
func open(t *testing.T, raw string, change ...func(*sink.Env)) (sink.Sink, error) {
	t.Helper()
	env := environment(t)
	for _, c := range change {
		c(&env)
	}
	d := snowflake.Driver()
	if strings.HasPrefix(raw, "snowflake-keypair:") {
		d = snowflake.KeyPair()
	}
	target, err := sink.ParseURL(raw, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Open(t.Context(), target, env)
	if err == nil {
		t.Cleanup(func() {
			if err := s.Close(context.Background()); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	return s, err
}

func mustOpen(t *testing.T, raw string) sink.Sink {
	t.Helper()
	s, err := open(t, raw)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// customers is a table of the source.
func customers(t testing.TB) *schema.Table {
	t.Helper()
	table, err := schema.New("customer", "1", []string{"id"},
		[]schema.Column{{Name: "id", Type: schema.String}, {Name: "name", Type: schema.String}, {Name: "visits", Type: schema.Integer}})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// batch returns a batch of upserts of rows.
func batch(t testing.TB, table *schema.Table, sequence uint64, images ...string) *change.Batch {
	t.Helper()
	set := &change.RowSet{Table: table}
	splitter := change.NewSplitter(table)
	for _, image := range images {
		spans, err := splitter.Split([]byte(image))
		if err != nil {
			t.Fatal(err)
		}
		set.Upserts = append(set.Upserts, change.Row{Image: []byte(image), Spans: spans, Op: cdc.Insert})
	}
	at := cdc.Position{Sequence: sequence, Stored: int64(sequence) * 1000}
	return &change.Batch{First: at, Last: at, Sets: []*change.RowSet{set}}
}
