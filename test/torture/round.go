package torture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/verify"
)

const (
	serverID = "torture"
	// ahead is the maximum number of changes that the shop makes between the time of a step and the
	// end of the step.
	ahead = 200
	// lag is how long a step waits until the server has applied all earlier changes.
	lag = 5 * time.Second
)

// Round runs one schedule on one destination. The caller sets the exported fields.
type Round struct {
	Program     string // path of the eds binary
	Dir         string // directory for all files, including logs
	Seed        uint64
	Kinds       []Kind
	Destination Destination
	// Patience is the time limit for eds to make the destination complete, or to report why it is
	// not complete.
	Patience time.Duration

	hq       *devhq.HQ
	pump     *pump
	service  *service
	schedule Schedule

	suspects suspects       // suspects since the destination was last equal to the shop
	lostAt   uint64         // when the stream last lost messages, as a number of changes
	copies   map[int]copied // copies by number
	stalled  bool           // the server is not applying changes
	calm     *monitor       // watches the server until the first fault

	began   time.Time
	mu      sync.Mutex
	journal []string
	last    observation
}

// copied is a copy of the destination or of the data directory.
type copied struct {
	name     string
	at       uint64   // when the copy was made, as a number of changes
	suspects suspects // suspects at that time
}

// Run runs the schedule. If the error is a *Failure, eds is at fault; otherwise the test itself
// has failed.
func (r *Round) Run(ctx context.Context) (err error) {
	r.began, r.copies = time.Now(), make(map[int]copied)
	if err := os.MkdirAll(r.data(), 0o700); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(r.Dir, "hq.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	r.hq, err = devhq.Start(ctx, devhq.Options{
		DataDir: filepath.Join(r.Dir, "hq"), Seed: r.Seed, Customers: 30, SessionGrace: 100 * time.Millisecond,
		Logger: slog.New(slog.NewJSONHandler(log, nil)),
	})
	if err != nil {
		return err
	}
	defer func() {
		if closed := r.hq.Close(); err == nil {
			err = closed
		}
	}()
	r.schedule = Generate(r.Seed, r.Kinds, r.hq.Shop().Tables())
	if err := r.configure(); err != nil {
		return err
	}
	r.service = &service{
		program: r.Program, dir: r.Dir, logPath: filepath.Join(r.Dir, "server.log"), record: r.record,
		args: []string{"server", "--server", r.hq.NATSURL(), "--host", "127.0.0.1", "--port", "0"},
		env: append(os.Environ(), "SM_APIKEY="+r.hq.APIKey(devhq.KeyOptions{ServerID: serverID}), "NO_COLOR=1",
			"EDS_UPGRADE_IN_CONTAINER=true"),
	}
	defer r.service.close()

	working, rest := context.WithCancel(ctx)
	var work sync.WaitGroup
	r.pump = newPump(r.hq)
	work.Go(func() { r.pump.run(working) })
	defer work.Wait()
	defer rest()
	return r.run(ctx)
}

// run imports all tables, starts the server, and executes the steps of the schedule.
func (r *Round) run(ctx context.Context) error {
	if err := r.operate(ctx, "eds import"); err != nil {
		return err
	}
	if err := r.service.start(); err != nil {
		return err
	}
	r.calm = watch(ctx, r.service)
	defer r.calm.stop()
	for i, step := range r.schedule {
		if err := r.await(ctx, i); err != nil {
			return err
		}
		r.record("%v", step)
		if err := r.perform(ctx, step); err != nil {
			if f := new(Failure); !errors.As(err, &f) {
				err = fmt.Errorf("%v: %w", step, err)
			}
			return err
		}
	}
	return r.end(ctx)
}

// await waits for the time of step number i. This means that it waits until the shop has made the
// required number of changes. If the server is running and makes progress, await also waits until
// the server has applied these changes.
func (r *Round) await(ctx context.Context, i int) error {
	at := r.schedule[i].At
	limit := at + ahead
	for _, later := range r.schedule[i:] {
		if later.Action == Check {
			limit = min(limit, later.At)
			break
		}
	}
	if err := r.pump.until(ctx, at, limit); err != nil {
		return fmt.Errorf("wait for change %d: %w", at, err)
	}
	if r.stalled || !r.service.up() {
		return nil
	}
	until := r.pump.sequence()
	late, cancel := context.WithTimeout(ctx, lag)
	defer cancel()
	err := wait(late, 50*time.Millisecond, func() (bool, error) {
		if c := r.consumer(late); c != nil && c.AckFloor.Stream >= until {
			return true, nil
		}
		return false, r.refuses(late)
	})
	if err != nil && ctx.Err() == nil {
		r.record("the server has not applied message %d: %v", until, err)
		r.stalled = true
	}
	return ctx.Err()
}

// refuses returns an error if eds reports at its health endpoint that it needs a remedy.
func (r *Round) refuses(ctx context.Context) error {
	text, err := r.service.health(ctx)
	if err != nil {
		return nil // the server is starting or exiting
	}
	if c, err := ReadClaim(text); err == nil && len(c.Remedies()) > 0 {
		return errors.New("eds asks for a remedy")
	}
	return nil
}

// consumer returns the server's consumer. It returns nil if the consumer does not exist or NATS
// does not answer.
func (r *Round) consumer(ctx context.Context) *jetstream.ConsumerInfo {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	all, err := r.hq.Consumers(ctx)
	if err != nil {
		return nil
	}
	return all["eds-"+serverID]
}

// end stops the server, and compares the destination with the shop one last time.
func (r *Round) end(ctx context.Context) error {
	r.record("the end")
	ctx, cancel := context.WithTimeout(ctx, r.Patience)
	defer cancel()
	code, err := r.service.down(ctx, false)
	if err != nil {
		return err
	}
	if code != 0 {
		return &Failure{Refused, fmt.Sprintf("SIGTERM ended the server with exit code %d", code)}
	}
	r.last = observation{tables: r.hq.Shop().Tables(), drained: true}
	r.last.reports, err = r.compare(ctx)
	if differing := r.last.differing(); err == nil && len(differing) > 0 {
		err = &Failure{Silence, list(differing) + " differ after the server has stopped"}
	}
	return err
}

// compare compares the destination with the shop, table by table.
func (r *Round) compare(ctx context.Context) (reports []verify.Report, err error) {
	err = r.Destination.Read(ctx, func(rows sink.Reader) error {
		reports, err = compare(ctx, r.hq.Shop(), rows)
		return err
	})
	return reports, err
}

func (r *Round) data() string { return filepath.Join(r.Dir, "data") }

// configure writes a configuration file into the data directory. The API key is not in the file,
// because the server gets it from the environment.
func (r *Round) configure() error {
	if err := os.MkdirAll(r.data(), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.data(), "config.toml"), fmt.Appendf(nil, "url = %q\n", r.Destination.URL()), 0o600)
}

// operate runs a command as an operator would. If the command requires that the server is stopped,
// operate stops the server, runs the command again, and restarts the server.
func (r *Round) operate(ctx context.Context, command string) error {
	words := strings.Fields(command)
	if len(words) < 2 || words[0] != "eds" {
		return &Failure{Incurable, fmt.Sprintf("%q is not a command of eds", command)}
	}
	args := words[1:]
	if args[0] == "import" {
		args = append(args, "--no-confirm") // no terminal is available for a confirmation
	}
	r.record("$ %s", command)
	stdout, stderr, code, err := r.service.run(ctx, args...)
	if err == nil && code != 0 && strings.Contains(stderr, "stop that one first") && r.service.up() {
		if _, err := r.service.down(ctx, false); err != nil {
			return err
		}
		r.record("$ %s (with the server stopped)", command)
		if stdout, stderr, code, err = r.service.run(ctx, args...); err == nil {
			err = r.service.start()
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if code != 0 {
		return &Failure{Refused, fmt.Sprintf("%s: exit code %d\n%s%s", command, code, stdout, stderr)}
	}
	return nil
}

// record adds an entry to the journal of the round. The entry starts with the elapsed seconds and
// the number of changes.
func (r *Round) record(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	made := uint64(0)
	if r.pump != nil {
		made = r.pump.count()
	}
	r.journal = append(r.journal, fmt.Sprintf("%8.3fs %6d  %s", time.Since(r.began).Seconds(), made, fmt.Sprintf(format, args...)))
}

// Report describes a failed round in detail. The argument is the error that Run returned.
func (r *Round) Report(err error) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n\nseed %d; the steps so far, by seconds and changes:\n\n%s\n", err, r.Seed, strings.Join(r.journal, "\n"))
	fmt.Fprintf(&b, "\nthe whole schedule, by changes:\n\n%v\nthe differences, when last compared:\n\n", r.schedule)
	for _, report := range r.last.reports {
		if !report.Equal() {
			fmt.Fprintf(&b, "  %v\n", report)
		}
	}
	fmt.Fprintf(&b, "\nthe report of eds:\n\n%v\n", r.last.claim)
	if r.service != nil {
		lines := strings.Split(strings.TrimSpace(r.service.output()), "\n")
		fmt.Fprintf(&b, "the last lines of its log:\n\n%s\n\n", strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
	fmt.Fprintf(&b, "logs and data are in %s\n", r.Dir)
	return b.String()
}

// copyTree copies a directory, with all regular files below it. The arguments are the path of the
// copy, and then the path of the original.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rest, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch target := filepath.Join(to, rest); {
		case d.IsDir():
			return os.MkdirAll(target, 0o700)
		case d.Type().IsRegular():
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(target, text, 0o600)
		}
		return nil
	})
}

// company returns the id of a company, selected by the number n.
func (r *Round) company(n uint64) string {
	all := slices.Sorted(slices.Values(r.hq.Shop().Companies()))
	return all[n%uint64(len(all))]
}

// wait calls the callback at the given interval until the callback returns true or an error, or
// until ctx is done.
func wait(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	again := time.NewTicker(every)
	defer again.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
