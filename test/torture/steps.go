package torture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/devhq/shop"
)

// perform executes a step. It also records which tables may lack changes afterwards.
func (r *Round) perform(ctx context.Context, s Step) error {
	switch s.Action {
	case Check:
		return r.check(ctx)
	case Start:
		r.stalled = false
		return r.service.start()
	}
	if err := r.calm.stop(); err != nil {
		return err
	}
	switch s.Action {
	case KillWorker, KillParent, KillBoth, Stop, Kill:
		return r.endServer(ctx, s.Action)
	case RestartNATS:
		r.hq.StopNATS()
		select {
		case <-time.After(time.Duration(s.N) * time.Millisecond):
		case <-ctx.Done():
		}
		return r.hq.StartNATS()
	case TrimApplied, TrimUnapplied, RecreateStream, OutgrowStream:
		return r.breakStream(ctx, s)
	case CopyDestination, RestoreDestination, FailOver, EmptyDestination, DropTable, TruncateTable:
		return r.damageDestination(ctx, s)
	case CopyData, RestoreData, LoseData:
		return r.damageData(s)
	case Import, ImportOnly, ImportMerge, ImportCompany, ImportKilled, ImportBeside, ImportBesideKilled:
		return r.importRows(ctx, s)
	case Evolve:
		what, err := r.pump.evolve(ctx)
		if errors.Is(err, shop.ErrEvolved) {
			what, err = "the schema has gone through all its changes", nil
		}
		r.record("%s", what)
		return err
	}
	return fmt.Errorf("there is no action %q", s.Action)
}

func (r *Round) endServer(ctx context.Context, a Action) error {
	killed := true
	switch a {
	case KillWorker:
		killed = r.service.killWorker()
	case KillParent:
		killed = r.service.killParent()
	case KillBoth:
		killed = r.service.killBoth()
	default:
		ctx, cancel := context.WithTimeout(ctx, r.Patience)
		defer cancel()
		_, err := r.service.down(ctx, a == Kill)
		return err
	}
	if !killed {
		r.record("there is no such process at the moment")
	}
	return nil
}

func (r *Round) damageDestination(ctx context.Context, s Step) error {
	switch s.Action {
	case CopyDestination:
		name, err := r.Destination.Copy(ctx)
		r.copies[s.Copy] = copied{name, r.pump.count(), r.suspects}
		return err
	case EmptyDestination:
		r.suspects.all = true
		return r.Destination.Empty(ctx)
	case DropTable:
		r.suspects = r.suspects.with(suspects{names: []string{s.Table}})
		return r.Destination.Drop(ctx, s.Table)
	case TruncateTable:
		r.suspects = r.suspects.with(suspects{names: []string{s.Table}})
		return r.Destination.Truncate(ctx, s.Table)
	default:
		from := r.copies[s.Copy]
		r.record("the copy is of change %d", from.at)
		r.suspects = r.suspects.with(from.suspects)
		if from.at <= r.lostAt {
			r.suspects.all = true // the stream no longer has the changes made since the copy
		}
		return r.Destination.Restore(ctx, from.name)
	}
}

func (r *Round) damageData(s Step) error {
	if s.Action == CopyData {
		name := filepath.Join(r.Dir, fmt.Sprintf("data-copy-%d", s.Copy))
		r.copies[s.Copy] = copied{name: name}
		return r.service.frozen(func() error { return copyTree(name, r.data()) })
	}
	if err := os.RemoveAll(r.data()); err != nil {
		return err
	}
	if s.Action == RestoreData {
		return copyTree(r.data(), r.copies[s.Copy].name)
	}
	return r.configure()
}

func (r *Round) importRows(ctx context.Context, s Step) error {
	switch s.Action {
	case ImportOnly:
		return r.operate(ctx, "eds import --only "+s.Table)
	case ImportMerge:
		return r.operate(ctx, "eds import --no-delete --companyIds "+r.company(s.N))
	case ImportCompany:
		r.suspects.all = true
		return r.operate(ctx, "eds import --companyIds "+r.company(s.N))
	case ImportKilled:
		ctx, cancel := context.WithTimeout(ctx, time.Duration(s.N)*time.Millisecond)
		defer cancel()
		_, _, _, err := r.service.run(ctx, "import", "--no-confirm")
		if ctx.Err() != nil {
			return nil
		}
		return err
	case ImportBesideKilled:
		return r.killImporting(ctx, time.Duration(s.N)*time.Millisecond)
	default:
		return r.operate(ctx, "eds import")
	}
}

// killImporting makes the server import, and kills the server's worker after the given time. The
// next worker is expected to complete the import.
func (r *Round) killImporting(ctx context.Context, after time.Duration) error {
	over, end := context.WithCancel(ctx)
	defer end()
	killed := make(chan bool, 1)
	go func() {
		select {
		case <-time.After(after):
			killed <- r.service.killWorker()
		case <-over.Done():
			killed <- false
		}
	}()
	err := r.operate(ctx, "eds import")
	end()
	if !<-killed {
		r.record("the import ended before")
	}
	return err
}

// breakStream executes a step that makes the stream lose messages.
func (r *Round) breakStream(ctx context.Context, s Step) error {
	defer func() { r.lostAt = r.pump.count() }()
	if s.Action == TrimApplied {
		c := r.consumer(ctx)
		if c == nil {
			r.record("there is no consumer")
			return nil
		}
		r.record("up to message %d", c.AckFloor.Stream)
		return r.hq.PurgeStream(ctx, c.AckFloor.Stream+1)
	}
	r.suspects.all = true
	switch s.Action {
	case TrimUnapplied:
		last := r.pump.sequence()
		r.record("up to message %d", last-min(last, s.N))
		return r.hq.PurgeStream(ctx, last-min(last, s.N)+1)
	default:
		last, err := r.pump.recreate(ctx)
		r.record("its last message was %d", last)
		if err == nil && s.Action == OutgrowStream {
			err = r.pump.burst(ctx, last+s.N)
		}
		return err
	}
}

// check waits until the promise of eds is kept, while the shop makes no changes. If tables differ,
// it then runs the commands that eds prints, and checks that they make the destination equal to
// the shop.
func (r *Round) check(ctx context.Context) error {
	if !r.service.up() {
		r.record("the server is down")
	}
	r.stalled = false
	f, err := r.awaitPromise(ctx, r.suspects)
	if err := errors.Join(err, r.calm.stop()); err != nil {
		return err
	}
	if f != nil {
		return f
	}
	if ended := r.service.endedByItself(); ended != "" {
		return &Failure{Ended, strings.TrimSpace(ended)}
	}
	if r.last.claim.Silent() {
		r.suspects = suspects{}
		return nil
	}
	r.record("%s differ; eds reports: %s", list(r.last.differing()), strings.ReplaceAll(strings.TrimSpace(r.last.claim.String()),
		"\n", "; "))
	for _, remedy := range r.last.claim.Remedies() {
		if err := r.operate(ctx, remedy.Command); err != nil {
			return err
		}
	}
	if !r.service.up() { // the server asked for the remedy and exited
		if _, err := r.service.down(ctx, false); err != nil {
			return err
		}
		if err := r.service.start(); err != nil {
			return err
		}
	}
	r.suspects = suspects{}
	if f, err = r.awaitPromise(ctx, r.suspects); f != nil {
		f = &Failure{Ineffective, f.Error()}
		return f
	}
	return err
}

// steady is how long a report of eds must stay unchanged before it counts.
const steady = 2 * time.Second

// awaitPromise observes repeatedly until eds keeps its promise. If that takes longer than
// r.Patience, it returns the way in which the promise is broken.
func (r *Round) awaitPromise(ctx context.Context, may suspects) (*Failure, error) {
	deadline := time.Now().Add(r.Patience)
	said, since := "", time.Now()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		late := time.Now().After(deadline)
		var err error
		if r.last, err = r.observe(ctx, late); err != nil {
			return nil, err
		}
		f := brokenPromise(r.last, may)
		if now := r.last.claim.String() + list(r.last.differing()); now != said {
			said, since = now, time.Now()
		}
		switch unsteady := !r.last.claim.Silent() && time.Since(since) < steady; {
		case f == nil && !unsteady:
			return nil, nil
		case f == nil && late:
			return &Failure{Stuck, "the report of eds keeps changing"}, nil
		case late:
			return f, nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// observe looks at the consumer, at the report of eds, and at the rows, in this order, because a
// drained consumer stays drained. It skips the rows while the consumer is not drained and eds
// reports no problem, unless the second argument is true.
func (r *Round) observe(ctx context.Context, last bool) (observation, error) {
	o := observation{tables: r.hq.Shop().Tables()}
	if c := r.consumer(ctx); c != nil {
		o.drained = c.NumPending == 0 && c.NumAckPending == 0
	}
	var err error
	if o.claim, err = r.ask(ctx); err != nil {
		return o, err
	}
	if last || o.drained || !o.claim.Silent() {
		o.reports, err = r.compare(ctx)
	}
	return o, err
}

// ask returns the current report of eds. If the server is down, ask returns the last error in the
// log instead.
func (r *Round) ask(ctx context.Context) (Claim, error) {
	if !r.service.up() {
		return ReadLog(r.service.output()), nil
	}
	stdout, stderr, _, err := r.service.run(ctx, "status", "--json")
	if err != nil {
		return Claim{}, err
	}
	if stdout == "" {
		return Claim{Alarms: []string{"eds status: " + strings.TrimSpace(stderr)}}, nil
	}
	return ReadClaim([]byte(stdout))
}

// monitor watches a server for false alarms until the first fault.
type monitor struct {
	end  context.CancelFunc
	done chan struct{}
	said error
}

// watch starts a monitor, which polls the health endpoint until it is stopped.
func watch(ctx context.Context, s *service) *monitor {
	ctx, cancel := context.WithCancel(ctx)
	m := &monitor{end: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		_ = wait(ctx, 200*time.Millisecond, func() (bool, error) { // an error only means that the monitor was stopped
			text, err := s.health(ctx)
			if err != nil {
				return false, nil // the server is starting
			}
			c, err := ReadClaim(text)
			if err == nil && !c.Silent() {
				m.said = &Failure{FalseAlarm, "before any fault the health port answers: " + string(text)}
			}
			return m.said != nil, nil
		})
		for line := range strings.Lines(s.output()) {
			if m.said == nil && (strings.Contains(line, `"level":"WARN"`) || strings.Contains(line, `"level":"ERROR"`)) {
				m.said = &Failure{FalseAlarm, "before any fault the log has: " + strings.TrimSpace(line)}
			}
		}
	}()
	return m
}

// stop ends the monitor, and returns the false alarm that the monitor has seen, if any. Later
// calls return nil.
func (m *monitor) stop() error {
	m.end()
	<-m.done
	said := m.said
	m.said = nil
	return said
}
