package e2e_test

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/devhq/shop"
)

// Peak memory of the worker while it catches up, in bytes. docs/operations.md promises both.
const (
	ordinaryPeak = 160 << 20
	hostilePeak  = 400 << 20
)

// release builds the program without the race detector, which takes memory.
var release = sync.OnceValues(func() (string, error) {
	path := filepath.Join(directory, "eds-release")
	return path, build(path, "0", "-trimpath")
})

// generated is a world whose only table is a generator's, with one row.
type generated struct {
	*world
	generator *shop.ChangeGenerator
}

func newGenerated(t *testing.T, url string, columns int) *generated {
	t.Helper()
	w := newWorld(t, url, devhq.Options{Customers: 1})
	w.key = w.hq.APIKey(devhq.KeyOptions{ServerID: w.id, Companies: []string{"*"}})
	var err error
	if w.program, err = release(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now().UTC().Add(-time.Hour)
	g := &generated{w, shop.NewChangeGenerator(1, "bench", columns, 1, begin)}
	clock := strings.Replace(begin.Format("20060102150405.000000000"), ".", "", 1) + "0000000000"
	g.hq.Disturb(g.answers(clock + "-bench-1-1-00000000-bench-1.ndjson.gz"))
	w.imports()
	return g
}

// answers makes HQ serve the generator's table only, with an export of one file.
func (g *generated) answers(file string) func(r *http.Request) devhq.Fault {
	var row []byte
	for image := range g.generator.Rows() {
		row = zipped(append(bytes.Clone(image), '\n'))
	}
	return func(r *http.Request) devhq.Fault {
		var body any
		switch path := r.URL.Path; {
		case path == "/v3/schema":
			body = map[string]any{"Bench": g.generator.Schema()}
		case strings.HasPrefix(path, "/v3/schema/"):
			body = g.generator.Schema()
		case path == "/v3/export/bulk":
			body = map[string]any{"success": true, "data": map[string]string{"jobId": "bench"}}
		case path == "/v3/export/bulk/bench":
			table := map[string]any{"status": "Completed", "urls": []string{g.hq.APIURL() + "/files/" + file}}
			body = map[string]any{"success": true, "data": map[string]any{"completed": true, "tables": map[string]any{"bench": table}}}
		case strings.HasPrefix(path, "/files/"):
			return answer(row)
		default:
			return nil
		}
		text, _ := json.Marshal(body) // of maps and strings
		return answer(text)
	}
}

func answer(body []byte) devhq.Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
	}
}

// fill publishes n messages.
func (g *generated) fill(n int, message func(i int) *nats.Msg) {
	g.t.Helper()
	js, err := jetstream.New(g.hq.Conn(), jetstream.WithPublishAsyncMaxPending(1000))
	if err != nil {
		g.t.Fatal(err)
	}
	for i := range n {
		if _, err := js.PublishMsgAsync(message(i), jetstream.WithStallWait(patience)); err != nil {
			g.t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	if last := g.last(); last < uint64(n) {
		g.t.Fatalf("the stream has %d messages, want %d", last, n)
	}
}

// ordinary returns the generator's next change as a message.
func (g *generated) ordinary(int) *nats.Msg {
	c := g.generator.Next()
	return &nats.Msg{Subject: c.Subject(), Data: c.AppendJSON(nil)}
}

// hostile is an event of about 60 MB that compresses to about 255 KB.
type hostile struct {
	text    string // after the event's head; ID and PARTS are filled in
	part    func(noise string) string
	between string // parts
	parts   int    // 0: 60, of 1 MB
}

func hostiles() map[string]hostile {
	filled := func(text string, size int) func(string) string {
		return func(noise string) string { return noise + strings.Repeat(text, (size-len(noise))/len(text)) }
	}
	quoted := func(text string, size int) func(string) string {
		return func(noise string) string { return filled(text, size)(`"` + noise + `":1`) }
	}
	return map[string]hostile{
		"long value":       {text: `"after":{ID,"column8":"PARTS"}`, part: filled("0", 1e6)},
		"key apart":        {text: `"key":["1"],"after":{"column8":"PARTS"}`, part: filled("0", 1e6)},
		"before and after": {text: `"before":{ID,"column8":"PARTS"},"after":{ID,"column8":"PARTS"}`, part: filled("0", 1e6), parts: 30},
		"escapes":          {text: `"after":{ID,"column8":"PARTS"}`, part: filled(`\u0041`, 1e6)},
		"many members":     {text: `"after":{ID,PARTS}`, part: quoted(`,"x":1`, 1e6), between: ","},
		"json":             {text: `"after":{ID,"column9":["PARTS"]}`, part: filled(`","a`, 1e6)},
	}
}

// hostile makes messages of the shape.
func (g *generated) hostile(shape hostile) func(i int) *nats.Msg {
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 3000)
	parts := make([]string, cmp.Or(shape.parts, 60))
	for i := range parts {
		for j := range noise {
			noise[j] = byte(random.Uint32())
		}
		parts[i] = shape.part(base64.RawURLEncoding.EncodeToString(noise))
	}
	large := zipped([]byte(strings.Join(parts, shape.between)))
	version := g.generator.Next().ModelVersion
	return func(i int) *nats.Msg {
		text := fmt.Sprintf(`{"operation":"UPDATE","id":"h%d","table":"bench","modelVersion":%q,"mvccTimestamp":%q,`, i, version, clock()) +
			strings.ReplaceAll(shape.text, "ID", fmt.Sprintf(`"id":"%024x"`, i)) + "}"
		var data []byte // several gzip members, most of them the same
		for n, piece := range strings.Split(text, "PARTS") {
			if n > 0 {
				data = append(data, large...)
			}
			data = append(data, zipped([]byte(piece))...)
		}
		return &nats.Msg{
			Subject: "dbchange.bench.UPDATE.6500000000000000000000c1.NONE.PUBLIC.h", Data: data,
			Header: nats.Header{"content-encoding": {"gzip/json"}},
		}
	}
}

func zipped(text []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(text) // into memory
	_ = z.Close()
	return out.Bytes()
}

// catchesUp makes a server apply the whole stream, and expects no dead letters and a worker that
// has taken at most limit bytes of memory.
func (g *generated) catchesUp(limit int) {
	g.t.Helper()
	p := g.serve()
	g.acknowledged(p, g.last())
	took := peak(g.t, p.worker())
	p.stop()
	g.t.Logf("the worker took %d MiB", took>>20)
	if took > limit {
		g.t.Errorf("the worker took %d MiB, more than %d", took>>20, limit>>20)
	}
	list, stderr, code := g.eds("dlq", "list", "--data-dir", g.data)
	if code != 0 || !strings.Contains(list, "is empty") {
		g.t.Errorf("dlq list: exit code %d\n%.2000s%s", code, list, stderr)
	}
}

// peak returns the peak memory of a process so far, in bytes.
func peak(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

func TestMemory_OfAnOrdinaryBacklog(t *testing.T) {
	t.Parallel()
	for _, columns := range []int{20, 60} {
		for name, destination := range destinations {
			t.Run(fmt.Sprint(name, columns), func(t *testing.T) {
				g := newGenerated(t, destination(t), columns)
				g.fill(2_000_000/columns, g.ordinary) // some 120 MB
				g.catchesUp(ordinaryPeak)
			})
		}
	}
}

func TestMemory_OfAHostileBacklog(t *testing.T) {
	t.Parallel()
	const messages = 12
	all := hostiles()
	for name, shapes := range map[string][]string{
		"postgres": {"long value", "key apart"},
		"sqlite":   {"before and after", "escapes", "many members", "json"},
	} {
		for _, shape := range shapes {
			t.Run(name+" "+shape, func(t *testing.T) {
				g := newGenerated(t, destinations[name](t), 20)
				hostile := g.hostile(all[shape])
				g.fill(10*messages, func(i int) *nats.Msg {
					if i%10 == 0 {
						return hostile(i)
					}
					return g.ordinary(i)
				})
				g.catchesUp(hostilePeak)
			})
		}
	}
}
