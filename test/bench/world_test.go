package bench_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/gzip"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/devhq/shop"
)

// world is an HQ whose only table is a generator's.
type world struct {
	b         *testing.B
	hq        *devhq.HQ
	key       string
	data      string
	generator *shop.ChangeGenerator
	files     []string // of the export
	clock     string   // of the export, as CockroachDB writes it in file names
}

// fileRows is the number of rows in a file of the export.
const fileRows = 50_000

func newWorld(b *testing.B, columns, rows int) *world {
	b.Helper()
	h, err := devhq.Start(b.Context(), devhq.Options{DataDir: b.TempDir(), Customers: 1, Seed: 1, SessionGrace: 50 * time.Millisecond})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := h.Close(); err != nil {
			b.Error(err)
		}
	})
	begin := time.Now().UTC().Add(-time.Hour)
	w := &world{
		b: b, hq: h, key: h.APIKey(devhq.KeyOptions{ServerID: "bench", Companies: []string{"*"}}), data: b.TempDir(),
		generator: shop.NewChangeGenerator(1, "bench", columns, rows, begin),
	}
	w.clock = begin.Format("20060102150405.000000000")
	w.clock = strings.Replace(w.clock, ".", "", 1) + "0000000000"
	h.Disturb(w.answer)
	return w
}

// answer serves the generator's schema and export instead of the shop's.
func (w *world) answer(r *http.Request) devhq.Fault {
	var body any
	switch path := r.URL.Path; {
	case path == "/v3/schema":
		body = map[string]json.RawMessage{"Bench": w.generator.Schema()}
	case strings.HasPrefix(path, "/v3/schema/"):
		body = w.generator.Schema()
	case path == "/v3/export/bulk":
		body = map[string]any{"success": true, "data": map[string]string{"jobId": "bench"}}
	case path == "/v3/export/bulk/bench":
		urls := make([]string, len(w.files))
		for i, f := range w.files {
			urls[i] = w.hq.APIURL() + "/bench-files/" + filepath.Base(f)
		}
		body = map[string]any{"success": true, "data": map[string]any{
			"completed": true,
			"tables":    map[string]any{"bench": map[string]any{"status": "Completed", "urls": urls}},
		}}
	case strings.HasPrefix(path, "/bench-files/"):
		return func(http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				http.ServeFile(rw, r, filepath.Join(filepath.Dir(w.files[0]), filepath.Base(r.URL.Path)))
			})
		}
	default:
		return nil
	}
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(rw).Encode(body)
		})
	}
}

// export writes the generator's rows as the files of an export.
func (w *world) export() {
	w.b.Helper()
	dir := w.b.TempDir()
	var file *os.File
	var zipped *gzip.Writer
	end := func() {
		if file == nil {
			return
		}
		if err := zipped.Close(); err != nil {
			w.b.Fatal(err)
		}
		if err := file.Close(); err != nil {
			w.b.Fatal(err)
		}
	}
	n := 0
	for row := range w.generator.Rows() {
		if n%fileRows == 0 {
			end()
			name := filepath.Join(dir, fmt.Sprintf("%s-bench-1-1-%08d-bench-1.ndjson.gz", w.clock, n/fileRows))
			var err error
			if file, err = os.Create(name); err != nil {
				w.b.Fatal(err)
			}
			zipped, _ = gzip.NewWriterLevel(file, gzip.BestSpeed)
			w.files = append(w.files, name)
		}
		n++
		if _, err := zipped.Write(append(bytes.Clone(row), '\n')); err != nil {
			w.b.Fatal(err)
		}
	}
	end()
}

// fill publishes n changes.
func (w *world) fill(n int) {
	w.b.Helper()
	js, err := jetstream.New(w.hq.Conn(), jetstream.WithPublishAsyncMaxPending(4000))
	if err != nil {
		w.b.Fatal(err)
	}
	for range n {
		c := w.generator.Next()
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: c.Subject(), Data: c.AppendJSON(nil)},
			jetstream.WithStallWait(30*time.Second)); err != nil {
			w.b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
}

// readBare reads the first n events through a consumer like that of eds, with the loop of the
// client library, and acknowledges each.
func (w *world) readBare(n int) {
	js, err := jetstream.New(w.hq.Conn())
	if err != nil {
		w.b.Error(err)
		return
	}
	ctx := context.Background()
	of, err := js.Consumer(ctx, "dbchange", "eds-bench")
	if err != nil {
		w.b.Error(err)
		return
	}
	config := of.CachedInfo().Config
	config.Durable, config.Name, config.DeliverPolicy, config.OptStartTime = "bare", "bare", jetstream.DeliverAllPolicy, nil
	config.MaxWaiting = 0 // this client pulls ahead; eds does not
	consumer, err := js.CreateOrUpdateConsumer(ctx, "dbchange", config)
	if err != nil {
		w.b.Error(err)
		return
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(4096))
	if err != nil {
		w.b.Error(err)
		return
	}
	defer messages.Stop()
	for range n {
		m, err := messages.Next()
		if err == nil {
			err = m.Ack()
		}
		if err != nil {
			w.b.Error(err)
			return
		}
	}
}

// eds returns a command of the program.
func (w *world) eds(args ...string) *exec.Cmd {
	w.b.Helper()
	path, err := program()
	if err != nil {
		w.b.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "SM_APIKEY="+w.key)
	return cmd
}

// imports runs "eds import" and returns its duration and its peak memory.
func (w *world) imports(url string, more ...string) (time.Duration, int64) {
	w.b.Helper()
	cmd := w.eds(append([]string{"import", "--data-dir", w.data, "--url", url, "--no-confirm", "--silent"}, more...)...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	began := time.Now()
	if err := cmd.Run(); err != nil {
		w.b.Fatalf("import: %v\n%s", err, output.String())
	}
	took := time.Since(began)
	return took, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
}

// process is a running "eds server".
type process struct {
	b   *testing.B
	cmd *exec.Cmd
	mu  sync.Mutex
	log bytes.Buffer
}

func (p *process) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(text)
}

func (w *world) serve(url string) *process {
	w.b.Helper()
	p := &process{b: w.b}
	p.cmd = w.eds("server", "--data-dir", w.data, "--url", url, "--server", w.hq.NATSURL(), "--host", "127.0.0.1", "--port", "0")
	if profile := os.Getenv("EDS_BENCH_PROFILE"); profile != "" {
		p.cmd.Args = append(p.cmd.Args, "--cpu-profile", profile)
	}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		w.b.Fatal(err)
	}
	return p
}

// pids returns the server's processes: the parent, and its worker.
func (p *process) pids() []string {
	all := []string{strconv.Itoa(p.cmd.Process.Pid)}
	lists, _ := filepath.Glob("/proc/" + all[0] + "/task/*/children")
	for _, list := range lists {
		text, _ := os.ReadFile(list) // a thread may have ended
		all = append(all, strings.Fields(string(text))...)
	}
	return all
}

// peak returns the peak memory so far of the larger of the server's processes.
func (p *process) peak() int64 {
	p.b.Helper()
	peak := int64(0)
	for _, pid := range p.pids() {
		text, err := os.ReadFile("/proc/" + pid + "/status")
		if err != nil {
			p.b.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), "VmHWM:")
		kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		if err != nil {
			p.b.Fatal(err)
		}
		peak = max(peak, kib<<10)
	}
	return peak
}

// stop ends the server in order and returns the peak memory of the larger of its processes.
func (p *process) stop() int64 {
	p.b.Helper()
	peak := p.peak()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.b.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.b.Fatalf("server: %v\n%s", err, p.log.String())
	}
	return peak
}

// cpu returns the CPU time of the server.
func (p *process) cpu() time.Duration {
	p.b.Helper()
	ticks := 0
	for _, pid := range p.pids() {
		text, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			p.b.Fatal(err)
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		for _, f := range fields[11:13] { // user and system time, in hundredths of a second
			n, err := strconv.Atoi(f)
			if err != nil {
				p.b.Fatal(err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// sample is the progress of a server at one moment.
type sample struct {
	at    time.Time
	acked uint64
}

// await samples the consumer until n changes are acknowledged.
func (w *world) await(p *process, n uint64) []sample {
	w.b.Helper()
	js, err := jetstream.New(w.hq.Conn())
	if err != nil {
		w.b.Fatal(err)
	}
	tick := time.NewTicker(100 * time.Millisecond) // each query costs the server time
	defer tick.Stop()
	deadline := time.After(5 * time.Minute)
	samples := []sample{{at: time.Now()}}
	for samples[len(samples)-1].acked < n {
		select {
		case <-tick.C:
		case <-deadline:
			w.b.Fatalf("the server does not catch up: %d of %d\n%s", samples[len(samples)-1].acked, n, p.log.String())
		}
		c, err := js.Consumer(context.Background(), "dbchange", "eds-bench")
		if err != nil {
			continue
		}
		samples = append(samples, sample{time.Now(), c.CachedInfo().AckFloor.Consumer})
	}
	return samples
}

func connect(b *testing.B, url string) *pgx.Conn {
	b.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		b.Fatal(err)
	}
	return conn
}

func execute(b *testing.B, conn *pgx.Conn, statements ...string) {
	b.Helper()
	for _, s := range statements {
		if _, err := conn.Exec(context.Background(), s); err != nil {
			b.Fatalf("%s: %v", s, err)
		}
	}
}

// mib writes bytes as mebibytes.
func mib(n int64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }
