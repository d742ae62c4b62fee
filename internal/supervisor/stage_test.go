package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stage runs a parent whose workers are scripts, in a bubble where time costs none.
type stage struct {
	t      *testing.T
	config Config
	binary *swapper // what Executable and Upgrader speak of
	ctx    context.Context
	stop   context.CancelFunc

	scripts []script
	starts  []started
	playing sync.WaitGroup
}

// script plays one worker from its start to its end.
type script func(a *actor) exit

// started is what a worker was started with.
type started struct {
	After time.Duration // since the parent began
	Path  string
	Note  Note
}

// actor is a script's hold on the parent.
type actor struct {
	t       *testing.T
	reports chan workerMessage
	asked   chan string // stop, quit or kill
	stop    func()      // asks the parent for an orderly end
}

func (a *actor) say(r workerMessage) { a.reports <- r }
func (a *actor) ready()              { a.say(workerMessage{Type: typeReady}) }
func (a *actor) beat()               { a.say(workerMessage{Type: typeHeartbeat}) }

// silent lets d pass.
func (a *actor) silent(d time.Duration) { time.Sleep(d) }

// live beats for d.
func (a *actor) live(d time.Duration) {
	for end := time.Now().Add(d); time.Until(end) > 0; {
		time.Sleep(min(30*time.Second, time.Until(end)))
		a.beat()
	}
}

// end announces an end and plays it.
func (a *actor) end(code int) exit {
	a.say(workerMessage{Type: typeExiting, Code: code, Reason: "as it likes"})
	a.expect("stop")
	return exit{code: code}
}

// upgrade asks for the binary "new" as version 2, and ends for it.
func (a *actor) upgrade() exit {
	a.say(workerMessage{Type: typeUpgrade, Version: "2", Staged: "new"})
	return a.end(CodeRestart)
}

// expect waits for what the parent asks next.
func (a *actor) expect(want string) {
	if got := <-a.asked; got != want {
		a.t.Errorf("the parent asks for %s, want %s", got, want)
	}
}

// What workers do.
func crash(*actor) exit { return exit{code: 7} }

func fine(a *actor) exit {
	a.ready()
	return a.end(CodeOK)
}

func asksForUpgrade(a *actor) exit {
	a.ready()
	return a.upgrade()
}

// swapper is an Upgrader of names.
type swapper struct {
	path, before string
	standing     *Upgraded
	calls        []string
	fails        map[string]error
}

func (s *swapper) call(name string, then func()) error {
	s.calls = append(s.calls, name)
	if err := s.fails[name]; err != nil {
		return err
	}
	then()
	return nil
}

func (s *swapper) Swap(staged string) error {
	return s.call("swap", func() { s.before, s.path, s.standing = s.path, staged, &Upgraded{Version: "2"} })
}

func (s *swapper) Rollback(reason string) error {
	return s.call("rollback", func() { s.path, s.standing = s.before, &Upgraded{Version: "2", Failed: true, Reason: reason} })
}

func (s *swapper) Commit() error { return s.call("commit", func() { s.standing = nil }) }

func (s *swapper) Status() *Upgraded { return s.standing }

var errNotThere = errors.New("it is not there")

// play runs f in a bubble on a stage with the scripts of the workers in their order.
func play(t *testing.T, scripts []script, f func(s *stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, scripts: scripts, binary: &swapper{path: "old"}}
		s.ctx, s.stop = context.WithCancel(t.Context())
		defer s.stop()
		s.config = Config{Dir: t.TempDir(), Version: "1", Upgrader: s.binary}
		s.config.Executable = func() (string, error) { return s.binary.path, nil }
		f(s)
	})
}

// run runs the parent to its end.
func (s *stage) run() (int, string) {
	s.t.Helper()
	began := time.Now()
	parent := newSupervisor(s.config)
	parent.start = func(path string, with StartRequest) (*child, error) {
		s.starts = append(s.starts, started{time.Since(began), path, with.Note})
		if len(s.starts) > len(s.scripts) {
			return nil, errors.New("there is no script for it")
		}
		play := s.scripts[len(s.starts)-1]
		if play == nil {
			return nil, errNotThere
		}
		return s.child(play), nil
	}
	code, err := parent.loop(s.ctx)
	s.playing.Wait()
	if len(s.starts) != len(s.scripts) {
		s.t.Errorf("%d workers were started, want %d", len(s.starts), len(s.scripts))
	}
	if err != nil {
		return code, err.Error()
	}
	return code, ""
}

func (s *stage) child(play script) *child {
	a := &actor{t: s.t, reports: make(chan workerMessage), asked: make(chan string, 10), stop: s.stop}
	ended := make(chan exit, 1)
	s.playing.Go(func() { ended <- play(a) })
	ask := func(what string) func() { return func() { a.asked <- what } }
	return &child{
		pid: len(s.starts), reports: a.reports, ended: ended, stop: sync.OnceFunc(ask("stop")), quit: ask("quit"),
		kill: ask("kill"),
	}
}

// stalled is a log that takes an hour for one message.
type stalled struct {
	slog.Handler
	message string
}

func (h stalled) Enabled(context.Context, slog.Level) bool { return true }

func (h stalled) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.message {
		time.Sleep(time.Hour)
	}
	return nil
}
